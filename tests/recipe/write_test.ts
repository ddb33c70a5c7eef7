import assert from "node:assert/strict";
import fc from "fast-check";
import { parseRecipe, recipeOf, writeRecipe } from "../../lib/recipe/mod.ts";
import {
  defaultSettings,
  type Setting,
  type SettingName,
  settingOf,
  SETTINGS,
  type Task,
} from "../../lib/train/settings.ts";

Deno.test("write: only what differs from the defaults, under headings", () => {
  const { settings } = recipeOf({
    model_name_or_path: "a/b",
    dataset_name: "c/d",
    lora_r: 8,
    learning_rate: 2e-5,
  });
  const text = writeRecipe(settings);
  assert.match(text, /# Model\nmodel_name_or_path: a\/b\n/);
  assert.match(text, /lora_r: 8/);
  assert.ok(!text.includes("learning_rate"), "it equals its default");
});

Deno.test("write: what an older dialect would assume is written out", () => {
  const given = { model_name_or_path: "a/b", dataset_mixer: { "c/d": 1 }, packing: false };
  const { settings } = recipeOf(given);
  assert.match(writeRecipe(settings), /packing: false/);
  assert.deepEqual(parseRecipe(writeRecipe(settings)).settings, settings);
});

/** Any value that a row of the table allows, awkward text included. */
function valuesOf(row: Setting): fc.Arbitrary<unknown> {
  const text = fc.oneof(
    fc.string(),
    fc.constantFrom("no", "null", "1e5", "0123", "a: b # c", "{{ x }}\n  y", "~"),
  );
  const kinds: Record<string, fc.Arbitrary<unknown>> = {
    string: text,
    bool: fc.boolean(),
    choice: fc.constantFrom(...(row.choices ?? [""])),
    list: fc.array(text, { maxLength: 3 }),
    names: fc.oneof(
      fc.constant("all-linear"),
      fc.constant(".*(q|v)_proj"),
      fc.constant(["q_proj", "v_proj"]),
    ),
    map: fc.dictionary(fc.constantFrom("a", "b"), fc.integer(), { noNullPrototype: true }),
    int: row.choices
      ? fc.constantFrom(...row.choices)
      : fc.integer({ min: Math.max(row.min ?? 0, 0), max: 1e6 }),
    float: fc.double({
      min: row.above ?? row.min ?? 0,
      max: row.max ?? row.below ?? 100,
      minExcluded: row.above !== undefined,
      maxExcluded: row.below !== undefined,
      noNaN: true,
    }),
  };
  const values = kinds[row.type.replace("?", "")];
  return row.type.endsWith("?") ? fc.option(values, { nil: null }) : values;
}

// Keys that other keys contradict or that decide the rest; their rules have tests of their own.
const FIXED = [
  "output_dir",
  "nibble_task",
  "dataset_mixture",
  "dataset_mixer",
  "dataset_splits",
  "dataset_configs",
  "dataset_name",
];
const NAMES = (Object.keys(SETTINGS) as SettingName[]).filter((name) =>
  !FIXED.includes(name) && !settingOf(name).unbuilt
);

Deno.test("write: reading it again gives the same settings, whatever they are", () => {
  const settings = fc.record(Object.fromEntries(NAMES.map((name) => [name, valuesOf(settingOf(name))])), {
    requiredKeys: [],
  });
  fc.assert(
    fc.property(settings, fc.constantFrom<Task>("sft", "dpo", "orpo", "kto", "cpt"), (changes, task) => {
      const all = {
        ...defaultSettings(task),
        ...changes,
        load_in_4bit: false,
        load_best_model_at_end: false,
        save_strategy: "no" as const,
        chat_template_path: null,
        hub_token: null,
        optim_args: null,
        lr_scheduler_kwargs: null,
      };
      all.lr_scheduler_type = "linear";
      all.loss_type = defaultSettings(task).loss_type;
      all.max_prompt_length = null;
      all.ref_model = null;
      all.dataset_kwargs = null;
      const again = parseRecipe(writeRecipe(all), { overrides: [], complete: false }).settings;
      assert.deepEqual(again, all);
    }),
    { numRuns: 60 },
  );
});
