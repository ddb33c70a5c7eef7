import assert from "node:assert/strict";
import { basename, join } from "@std/path";
import { NibbleError } from "../../lib/errors.ts";
import {
  checkpointStep,
  listCheckpoints,
  newestCheckpoint,
  rotateCheckpoints,
  writeFolder,
  writeIntoFolder,
} from "../../lib/train/checkpoint_folder.ts";

async function withFolder(test: (folder: string) => void | Promise<void>): Promise<void> {
  const folder = Deno.makeTempDirSync();
  try {
    await test(folder);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}
const names = (folder: string) => [...Deno.readDirSync(folder)].map((e) => e.name).sort();
const put = (folder: string, file: string, text: string) => Deno.writeTextFileSync(join(folder, file), text);
const get = (folder: string, file: string) => Deno.readTextFileSync(join(folder, file));

/** Makes checkpoints that count as whole, all written in the same second. */
function make(out: string, ...steps: number[]): void {
  for (const step of steps) {
    const folder = join(out, `checkpoint-${step}`);
    Deno.mkdirSync(folder, { recursive: true });
    put(folder, "trainer_state.json", "{}");
    Deno.utimeSync(join(folder, "trainer_state.json"), 1000, 1000);
  }
}

/** Makes a checkpoint that tells when it was written, whatever its files' time. */
function makeAt(out: string, step: number, written: number): string {
  make(out, step);
  put(join(out, `checkpoint-${step}`), "nibble_state.json", JSON.stringify({ written }));
  return join(out, `checkpoint-${step}`);
}
const stepsIn = (out: string) => listCheckpoints(out).map((c) => c.step);

Deno.test("checkpoints are listed by number, not by letter, and only whole ones", async () => {
  await withFolder((out) => {
    assert.equal(newestCheckpoint(join(out, "missing")), undefined);
    assert.equal(newestCheckpoint(out), undefined);
    make(out, 9, 100, 20);
    Deno.mkdirSync(join(out, "checkpoint-200")); // without a state: not whole
    Deno.mkdirSync(join(out, "checkpoint-300-copy"));
    put(out, "checkpoint-400", "a file");
    assert.deepEqual(stepsIn(out), [9, 20, 100]);
    assert.equal(basename(newestCheckpoint(out)!), "checkpoint-100");
    assert.equal(checkpointStep("x/checkpoint-7/"), 7);
    assert.equal(checkpointStep("x/checkpoint-"), undefined);
  });
});

Deno.test("rotation keeps the newest and never removes the best", async () => {
  // limit, best, what is left of 1 2 3 4 5
  const cases: [number | null, number | null, number[]][] = [
    [null, null, [1, 2, 3, 4, 5]],
    [9, null, [1, 2, 3, 4, 5]],
    [2, null, [4, 5]],
    [1, null, [5]],
    [1, 5, [5]],
    [1, 2, [2, 5]], // as Trainer: two, where the best is not the newest
    [2, 2, [2, 5]],
    [3, 1, [1, 4, 5]],
    [2, 77, [4, 5]], // a best that is gone protects nothing
  ];
  for (const [limit, best, left] of cases) {
    await withFolder((out) => {
      make(out, 1, 2, 3, 4, 5);
      put(out, "README.md", "stays");
      const gone = rotateCheckpoints(out, limit, best === null ? null : `/elsewhere/checkpoint-${best}`);
      assert.deepEqual(stepsIn(out), left, `limit ${limit}, best ${best}`);
      assert.equal(gone.length, 5 - left.length);
      assert.deepEqual(names(out), ["README.md", ...left.map((s) => `checkpoint-${s}`)], "no remains");
    });
  }
});

Deno.test("of two runs in a folder, the later one's checkpoints are the newer, whatever their steps", async () => {
  await withFolder((out) => {
    make(out, 80, 100); // without a time of their own: their files' counts, 1000 s after 1970
    const latest = makeAt(out, 4, 2_000_000);
    assert.deepEqual(stepsIn(out), [80, 100, 4]);
    assert.equal(newestCheckpoint(out), latest);
    assert.deepEqual(rotateCheckpoints(out, 2, null, latest).map((p) => basename(p)), ["checkpoint-80"]);
    const next = makeAt(out, 8, 3_000_000);
    rotateCheckpoints(out, 2, null, next);
    assert.deepEqual(stepsIn(out), [4, 8]);
    // a clock that was put back
    const early = makeAt(out, 12, 1_000);
    rotateCheckpoints(out, 1, null, early);
    assert.deepEqual(stepsIn(out), [12]);
  });
});

Deno.test("writeFolder makes and replaces a folder as a whole", async () => {
  await withFolder(async (out) => {
    const target = join(out, "checkpoint-1");
    await writeFolder(target, (tmp) => {
      put(tmp, "a", "1");
      Deno.mkdirSync(join(tmp, "deep"));
      put(join(tmp, "deep"), "b", "2");
      assert.deepEqual(names(out).includes("checkpoint-1"), false, "not there before it is whole");
    });
    assert.deepEqual(names(target), ["a", "deep"]);
    await writeFolder(target, async (tmp) => {
      await Promise.resolve();
      assert.deepEqual(names(tmp), [], "it begins empty");
      assert.equal(get(target, "a"), "1", "the old one stays while the new one is made");
      put(tmp, "c", "3");
    });
    assert.deepEqual(names(target), ["c"], "nothing of the old one is left in the new one");
    assert.deepEqual(names(out), ["checkpoint-1"]);
  });
});

Deno.test("when filling fails, what stood there is unharmed and nothing lies about", async () => {
  await withFolder(async (out) => {
    const target = join(out, "checkpoint-1");
    await writeFolder(target, (tmp) => put(tmp, "a", "old"));
    const full = writeFolder(target, (tmp) => {
      put(tmp, "a", "half");
      throw new Error("No space left on device");
    });
    await assert.rejects(
      full,
      (e) =>
        e instanceof NibbleError && e.code === "train/cannot-write" && e.message.includes("No space left") &&
        e.message.includes(target),
    );
    const own = new NibbleError("formats/x", "own");
    await assert.rejects(writeFolder(target, () => Promise.reject(own)), (e) => e === own);
    assert.equal(get(target, "a"), "old");
    assert.deepEqual(names(out), ["checkpoint-1"]);
  });
});

Deno.test("remains of a crash are cleared or put back", async () => {
  await withFolder(async (out) => {
    // Cut off while filling: the remains must not leak into the next one.
    Deno.mkdirSync(join(out, ".checkpoint-1.tmp"));
    put(join(out, ".checkpoint-1.tmp"), "stale", "x");
    await writeFolder(join(out, "checkpoint-1"), (tmp) => put(tmp, "trainer_state.json", "{}"));
    assert.deepEqual(names(join(out, "checkpoint-1")), ["trainer_state.json"]);

    // Cut off between the two renames: the old one is under another name and comes back.
    Deno.renameSync(join(out, "checkpoint-1"), join(out, ".checkpoint-1.old"));
    assert.equal(basename(newestCheckpoint(out)!), "checkpoint-1");
    assert.deepEqual(names(out), ["checkpoint-1"]);

    // Cut off after both renames: the new one stands, the old one's remains go with the next write.
    Deno.mkdirSync(join(out, ".checkpoint-1.old"));
    put(join(out, "checkpoint-1"), "new", "n");
    assert.equal(get(newestCheckpoint(out)!, "new"), "n");
    await writeFolder(join(out, "checkpoint-1"), (tmp) => put(tmp, "trainer_state.json", "{}"));
    assert.deepEqual(names(out), ["checkpoint-1"]);
  });
});

Deno.test("writeIntoFolder replaces files of the same name and leaves the rest", async () => {
  await withFolder(async (out) => {
    make(out, 5);
    put(out, "README.md", "old");
    put(out, "mine.txt", "mine");
    await assert.rejects(writeIntoFolder(out, (tmp) => {
      put(tmp, "README.md", "half");
      throw new Error("stop");
    }));
    assert.equal(get(out, "README.md"), "old");
    await writeIntoFolder(out, (tmp) => {
      put(tmp, "README.md", "new");
      put(tmp, "adapter_config.json", "{}");
    });
    assert.equal(get(out, "README.md"), "new");
    assert.deepEqual(names(out), ["README.md", "adapter_config.json", "checkpoint-5", "mine.txt"]);

    const fresh = join(out, "not", "yet");
    Deno.mkdirSync(join(out, "not"));
    await writeIntoFolder(fresh, (tmp) => put(tmp, "a", "1"));
    assert.deepEqual(names(fresh), ["a"]);
    assert.deepEqual(names(join(out, "not")), ["yet"]);
  });
});

Deno.test("a target inside a file is an error that names it", async () => {
  await withFolder(async (out) => {
    put(out, "file", "x");
    const target = join(out, "file", "checkpoint-1");
    await assert.rejects(
      writeFolder(target, () => {}),
      (e) => e instanceof NibbleError && e.message.includes(target),
    );
    assert.equal(get(out, "file"), "x");
  });
});
