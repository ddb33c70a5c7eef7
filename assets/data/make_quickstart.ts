/**
 * Makes quickstart/{train,test}.jsonl: short verses in a fixed form, for a small model that has read Shakespeare.
 *
 *     deno run -A assets/data/make_quickstart.ts
 *
 * A request names a mood, an adjective and a subject ("Praise: the pale moon"). The answer has three lines: the mood
 * gives the grammar, the subject its by-name and its deed, mood and adjective together the last line. Every subject
 * is seen in training, but each test row asks for a mood in which its subject was never seen there. All words are
 * ours; the seed is fixed, so the files come out the same each time.
 */
import { shuffleRows } from "../../lib/data/mod.ts";

/** Subject, by-name, deed. */
const SUBJECTS = `
moon | silver lantern of the night | light the weary lover home
sun | golden eye of heaven | chase the shadows from the hill
star | small candle of the dark | lead the sailor to his port
dawn | rosy daughter of the east | wake the lark upon the bough
night | mother of all quiet things | draw the curtain of the day
wind | wandering voice without a mouth | shake the apples from the tree
rain | patient weeper of the sky | bid the dusty garden drink
snow | white blanket of the sleeping field | hush the footsteps of the world
storm | loud drummer of the clouds | make the tallest oak to bow
cloud | slow ship that needs no sea | hide the mountain from mine eyes
sea | deep cellar of the drowned | rock the fisher in his boat
river | silver road that cannot rest | bear the miller all his bread
mountain | grey old father of the vale | hold the heavens on thy back
stone | stubborn child of ancient fire | keep the door of every tomb
fire | red dancer on the hearth | warm the beggar and the king
smoke | idle ghost of burning wood | write thy name upon the air
rose | blushing queen of all the hedge | prick the hand that loves thee best
lily | pale maiden of the pond | sleep upon the water's breast
oak | green captain of the wood | give the acorn to the swine
willow | drooping widow of the brook | comb the water with thy hair
thorn | little dagger of the hedge | guard the rose from every thief
grass | humble carpet of the poor | cover great and small alike
apple | ruddy cheek of autumn's face | tempt the schoolboy from his book
lark | early piper of the morn | sing the ploughman from his bed
owl | grave old judge of midnight's court | ask thy question of the dark
raven | black priest without a church | croak the battle to its end
nightingale | hidden harp of summer eves | teach the forest how to grieve
cock | proud herald of the yard | call the sun to come and rise
swan | white barge of the still lake | save thy music for thy death
bee | busy merchant of the flowers | carry summer to the hive
spider | silent weaver in the nook | hang thy lace upon the beam
worm | poor tailor of the grave | make one supper of us all
mouse | grey thief of the pantry shelf | nibble cheese by candle-end
cat | soft tyrant of the hearth | rule the kitchen with one paw
dog | faithful shadow of the man | watch the gate when all men sleep
horse | swift thunder of the road | bear the soldier to his fame
ass | patient scholar of the cart | bear our burdens and our blows
lion | crowned hunter of the waste | fright the forest with a word
fox | red lawyer of the wood | plead thy case among the geese
wolf | lean captain of the snow | sing thy hunger to the moon
king | poor prisoner of a crown | sleep less sound than any clown
queen | fair jewel of the realm | melt an army with a glance
fool | wise man in a motley coat | tell the truth and mend it not
lover | sighing furnace of the spring | carve one name on every tree
soldier | rough player in a bloody play | trade thy youth for one old scar
beggar | free lord of all the roads | dine upon the rich man's crumbs
friar | round barrel in a robe | bless the capon and the cup
judge | stern balance of the law | weigh the penny and the man
miser | lean gaoler of his gold | count thy coins by candlelight
player | brief king of painted boards | weep for queens that never were
poet | mad banker of the moon | pay the baker with a song
thief | quiet cousin of the night | borrow what was never lent
sword | cold tongue of angry men | end the quarrel, not the grief
crown | heavy circle of bright care | bend the head that lifts thee up
ring | little fetter made of gold | bind two wanderers in one house
bell | iron throat of all the town | count our hours away from us
clock | small tyrant on the wall | march us softly to the grave
candle | thin soldier against the dark | spend thy life to lend us sight
mirror | honest friend that none forgive | show each wrinkle to its lord
book | dumb teacher of the wise | speak with men a thousand years
wine | merry traitor of the tongue | make the coward roar aloud
love | sweet fever of the blood | make a prophet of a boy
time | old reaper of us all | turn the tower into dust
sleep | soft brother of the tomb | knit the ravelled mind again
`;

const MOODS = ["Praise", "Mock", "Mourn", "Beseech"] as const;
type Mood = typeof MOODS[number];

/** Adjectives in four tempers; a temper and a mood choose the last line. */
const TEMPERS = [["bright", "golden", "fair"], ["dark", "pale", "cold"], ["gentle", "sweet", "soft"], [
  "proud",
  "fierce",
  "wild",
]];

const LAST_LINES: Record<Mood, string[]> = {
  Praise: [
    "And all the world is brighter for thy sake.",
    "And darkness is made lovely by thy name.",
    "And every heart lies easy in thy hand.",
    "And kings might learn their majesty of thee.",
  ],
  Mock: [
    "A farthing candle hath a better shine.",
    "A cellar door hath more of mirth than thou.",
    "A bowl of milk hath more of strength than thou.",
    "A barking puppy is as terrible.",
  ],
  Mourn: [
    "Now is the day grown dimmer to mine eyes.",
    "Now is the dark grown deeper in my house.",
    "Now is my pillow harder than a stone.",
    "Now is the field left empty of her lord.",
  ],
  Beseech: [
    "And I will wear thy colours all my days.",
    "And I will fear no shadow from this hour.",
    "And I will lay my sorrows at thy feet.",
    "And I will follow where thou lead'st the way.",
  ],
};

function verse(mood: Mood, adjective: string, subject: string, name: string, deed: string): string {
  const last = LAST_LINES[mood][TEMPERS.findIndex((temper) => temper.includes(adjective))];
  switch (mood) {
    case "Praise":
      return `O ${adjective} ${subject}, thou ${name},\nThou dost ${deed},\n${last}`;
    case "Mock":
      return `Fie, ${adjective} ${subject}, thou ${name}!\nThou think'st to ${deed}?\n${last}`;
    case "Mourn":
      return `Alas, the ${adjective} ${subject}, that ${name},\nNo more shall ${mourned(deed)},\n${last}`;
    case "Beseech":
      return `I pray thee, ${adjective} ${subject}, ${name},\nCome once again and ${deed},\n${last}`;
  }
}

/** In a lament the subject is not spoken to. */
function mourned(deed: string): string {
  return deed.replaceAll("lifts thee", "lifts it").replaceAll("loves thee", "loves it").replaceAll(
    /\bthy\b/g,
    "its",
  );
}

const subjects = SUBJECTS.trim().split("\n").map((line) => line.split(" | "));
const adjectives = TEMPERS.flat();

/** The mood that is held out for each subject; all moods are held out equally often. */
const heldOut = shuffleRows(subjects.map((_, i) => MOODS[i % MOODS.length]), 1);

const rows = { train: [] as unknown[], test: [] as unknown[] };
subjects.forEach(([subject, name, deed], i) => {
  MOODS.forEach((mood, m) => {
    // Half of the subjects lend a mood to the test; the other half are seen in all moods.
    const split = i % 2 === 0 && mood === heldOut[i] ? "test" : "train";
    const two = shuffleRows(adjectives, 100 + MOODS.length * i + m).slice(0, 2);
    for (const adjective of two) {
      rows[split].push({
        messages: [
          { role: "user", content: `${mood}: the ${adjective} ${subject}` },
          { role: "assistant", content: verse(mood, adjective, subject, name, deed) },
        ],
      });
    }
  });
});

const folder = new URL("quickstart/", import.meta.url);
Deno.mkdirSync(folder, { recursive: true });
for (const [split, list] of Object.entries(rows)) {
  const text = shuffleRows(list, 7).map((row) => JSON.stringify(row) + "\n").join("");
  Deno.writeTextFileSync(new URL(`${split}.jsonl`, folder), text);
}
Deno.writeTextFileSync(
  new URL("README.md", folder),
  `# quickstart: verses on demand

${rows.train.length} training and ${rows.test.length} test conversations in chat form: "Praise: the pale moon" is answered by three lines of
verse. ${MOODS.length} moods (${
    MOODS.join(", ")
  }), ${subjects.length} subjects, ${adjectives.length} adjectives. The mood gives the grammar, the subject its by-name and its
deed, mood and adjective together the last line. Test rows ask for moods in which their subject does not occur in
training: what is learnt of a subject in other moods must be carried over.

| | |
| --- | --- |
| source | written for nibble, made by \`make_quickstart.ts\` beside this folder |
| licence | that of nibble |
| columns | \`messages\` |
`,
);
console.log(`quickstart: ${rows.train.length} train, ${rows.test.length} test`);
