import assert from "node:assert/strict";
import { join } from "@std/path";
import { gpu, openGpu } from "../lib/gpu/mod.ts";
import { describeKnown, tune, tuneForCommand, useKnownTuning } from "../lib/tuning.ts";
import { gpuTest } from "./gpu_helper.ts";

await openGpu();

/** Runs `work` with a cache folder of its own, and with these of the variables that matter. */
async function within(
  variables: Record<string, string>,
  work: (folder: string) => Promise<void>,
): Promise<void> {
  const home = Deno.makeTempDirSync({ prefix: "nibble-tuning-" });
  const all = { CI: undefined, NIBBLE_TUNE: undefined, XDG_CACHE_HOME: home, ...variables };
  const before = Object.keys(all).map((name) => [name, Deno.env.get(name)] as const);
  const set = (name: string, value: string | undefined) =>
    value === undefined ? Deno.env.delete(name) : Deno.env.set(name, value);
  for (const [name, value] of Object.entries(all)) set(name, value);
  try {
    await work(join(home, "nibble", "tuning"));
  } finally {
    for (const [name, value] of before) set(name, value);
    gpu().choices = new Map();
    Deno.removeSync(home, { recursive: true });
  }
}

const filesIn = (folder: string) => {
  try {
    return [...Deno.readDirSync(folder)].map(({ name }) => name);
  } catch {
    return [];
  }
};

gpuTest("in CI nothing is measured, read or written, and the rule decides", async () => {
  for (const variables of [{ CI: "true" }, { NIBBLE_TUNE: "off" }] as Record<string, string>[]) {
    await within(variables, async (folder) => {
      assert.equal(await tune({ redo: true, seconds: 0 }), undefined);
      await tuneForCommand(true);
      assert.deepEqual(filesIn(folder), []);
      assert.equal(gpu().choices.size, 0);
      assert.match(describeKnown(useKnownTuning()), /^tuned +no: (CI=true|NIBBLE_TUNE=off)$/);
    });
  }
});

gpuTest("what was measured is kept in nibble's cache folder, whole, and used by the next run", async () => {
  await within({}, async (folder) => {
    assert.match(describeKnown(useKnownTuning()), /not yet/);
    const first = await tune({ seconds: 0 }); // no time: every kernel is left to the rule
    assert.equal(first!.from, "measurement");
    assert.equal(first!.choices.size, 0);
    const [file, ...more] = filesIn(folder);
    assert.deepEqual(more, [], "nothing beside it is left");
    // as if one had been measured
    const path = join(folder, file!), kept = JSON.parse(Deno.readTextFileSync(path));
    const name = kept.left.shift();
    const measured = [{ candidate: "strided", ms: 2 }, { candidate: "tile32", ms: 1 }];
    kept.kernels.push({ name, flops: 1, chosen: "tile32", measured });
    Deno.writeTextFileSync(path, JSON.stringify(kept));
    const again = await tune();
    assert.equal(again!.from, "store");
    assert.deepEqual([...gpu().choices], [[name, "tile32"]]);
    gpu().choices = new Map();
    const known = useKnownTuning();
    assert.deepEqual([...gpu().choices], [[name, "tile32"]]);
    assert.match(
      describeKnown(known),
      /1 kernels measured .* 1 faster .*\n +matmul.nt.large +tile32, 1.000 ms, 2.00 x/s,
    );
    // a command that finds them says nothing
    const said: unknown[] = [], { error } = console;
    console.error = (...words) => said.push(words);
    try {
      await tuneForCommand(false);
    } finally {
      console.error = error;
    }
    assert.deepEqual(said, []);
    // another device on this adapter has them too, one with less of it has not
    const budget = await openGpu({ budgetBytes: 2 ** 30 });
    assert.deepEqual([...budget.choices], [[name, "tile32"]]);
    assert.equal((await openGpu({ defaultLimits: true })).choices.size, 0);
    await openGpu({});
    Deno.writeTextFileSync(path, "{");
    assert.equal(useKnownTuning(), undefined);
    assert.equal((await tune({ seconds: 0 }))!.from, "measurement", "a damaged file is no error");
    assert.equal(JSON.parse(Deno.readTextFileSync(path)).left[0], name);
  });
});

gpuTest("a folder that cannot be written costs the file, not the run", async () => {
  await within({}, async (folder) => {
    Deno.mkdirSync(join(folder, ".."), { recursive: true });
    Deno.writeTextFileSync(folder, "a file stands where the folder should be");
    const notes: string[] = [];
    const tuning = await tune({ seconds: 0, onNote: (note) => notes.push(note) });
    assert.equal(tuning!.from, "measurement");
    assert.match(notes.join(), /cannot be kept/);
  });
});
