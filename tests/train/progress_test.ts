import assert from "node:assert/strict";
import { join } from "@std/path";
import { NibbleError } from "../../lib/errors.ts";
import {
  createReporter,
  etaOf,
  formatBytes,
  formatDuration,
  openJsonLog,
  type Progress,
  progressLine,
  progressOf,
  type Screen,
} from "../../lib/train/progress.ts";

Deno.test("durations read as people say them, and no part is ever 60", () => {
  const cases: [number, string][] = [
    [0, "0.0s"],
    [0.44, "0.4s"],
    [9.94, "9.9s"],
    [9.96, "10s"],
    [59.4, "59s"],
    [59.6, "1m00s"],
    [130, "2m10s"],
    [3599.6, "1h00m"],
    [3725, "1h02m"],
    [86_399, "1d00h"],
    [97_000, "1d03h"],
    [NaN, "?"],
    [Infinity, "?"],
    [-1, "?"],
  ];
  for (const [seconds, text] of cases) assert.equal(formatDuration(seconds), text, String(seconds));
});

Deno.test("bytes", () => {
  assert.equal(formatBytes(0), "0.0 MiB");
  assert.equal(formatBytes(4.5 * 2 ** 20), "4.5 MiB");
  assert.equal(formatBytes(9.96 * 2 ** 20), "10 MiB");
  assert.equal(formatBytes(312 * 2 ** 20), "312 MiB");
  assert.equal(formatBytes(1023.9 * 2 ** 20), "1.00 GiB");
  assert.equal(formatBytes(20 * 2 ** 30), "20.0 GiB");
});

Deno.test("the time left follows the pace of the steps that were timed", () => {
  assert.equal(etaOf(10, 40, 20), 60);
  assert.equal(etaOf(30, 40, 5, 10), 5);
  assert.equal(etaOf(40, 40, 20), 0);
  assert.ok(Number.isNaN(etaOf(0, 40, 0)));
});

Deno.test("a full line, and one that leaves out what is not known", () => {
  assert.equal(
    progressLine({
      step: 2,
      maxSteps: 40,
      loss: 3.4119,
      learningRate: 9.8e-4,
      gradNorm: 0.834,
      tokensPerSecond: 61.2,
      deviceBytes: 312 * 2 ** 20,
      secondsLeft: 130,
    }),
    "step  2/40  loss 3.412  lr 9.8e-4  norm 0.83  tok/s 61  mem 312 MiB  ETA 2m10s",
  );
  assert.equal(progressLine({ step: 0, maxSteps: 1, learningRate: 0 }), "step 0/1  lr 0");
  assert.equal(
    progressLine({ step: 1, maxSteps: 1, loss: NaN }),
    "step 1/1  loss NaN",
    "a NaN is shown, not hidden",
  );
});

Deno.test("work that counts what is done shows its share, ten times a second, and goes away in the end", () => {
  const shown: (string | undefined)[] = [];
  const reporter = { step: (p: Progress) => shown.push(progressLine(p)), done: () => shown.push(undefined) };
  let now = 7000;
  const progress = progressOf(reporter, "loading", () => now);
  for (const [ms, done] of [[1000, 500], [99, 600], [1, 999], [1, 1000]] as const) {
    now += ms;
    progress(done, 2000 / 2);
  }
  assert.deepEqual(shown, ["loading 50 %  ETA 1.0s", "loading 99 %  ETA 0.0s", undefined]);
});

/** A screen of one or more rows that understands carriage return and `ESC[2K`, as terminals do. */
function fakeScreen(isTerminal: boolean, columns = 80): Screen & { rows: string[]; raw: string } {
  const screen = {
    rows: [""],
    raw: "",
    isTerminal,
    columns: () => columns,
    write(text: string) {
      screen.raw += text;
      // deno-lint-ignore no-control-regex -- the codes under test
      for (const piece of text.split(/(\r|\n|\x1b\[2K)/)) {
        if (piece === "\n") screen.rows.push("");
        else if (piece === "\x1b[2K") screen.rows[screen.rows.length - 1] = "";
        else if (piece !== "\r") screen.rows[screen.rows.length - 1] += piece;
      }
    },
  };
  return screen;
}

Deno.test("in a terminal the moving line is written over and leaves only lasting lines", () => {
  const screen = fakeScreen(true, 40);
  const reporter = createReporter(screen, screen);
  reporter.step({ step: 1, maxSteps: 4, loss: 5, learningRate: 1e-3, secondsLeft: 99 });
  assert.ok(screen.rows[0].startsWith("[====>           ] step 1/4"), screen.rows[0]);
  assert.equal(screen.rows[0].length, 39, "cut one short of the width");
  reporter.step({ step: 2, maxSteps: 4 });
  assert.deepEqual(screen.rows, ["[========>       ] step 2/4"]);
  reporter.log({ step: 2, maxSteps: 4, loss: 4 });
  reporter.step({ step: 4, maxSteps: 4 });
  reporter.note("saved");
  reporter.step({ step: 4, maxSteps: 4 });
  reporter.done();
  reporter.done();
  assert.deepEqual(screen.rows, ["step 2/4  loss 4.000", "saved", ""]);
});

Deno.test("without a terminal there are plain lines and no control characters", () => {
  const out = fakeScreen(false);
  const live = fakeScreen(false);
  const reporter = createReporter(out, live);
  reporter.step({ step: 1, maxSteps: 4 });
  reporter.log({ step: 2, maxSteps: 4, loss: 4 });
  reporter.done();
  assert.equal(out.raw, "step 2/4  loss 4.000\n");
  assert.equal(live.raw, "");
});

Deno.test("the JSON log: one object a line, added to, cut back on resume", () => {
  const folder = Deno.makeTempDirSync();
  const path = join(folder, "logs.jsonl");
  const lines = () => Deno.readTextFileSync(path).split("\n").slice(0, -1).map((l) => JSON.parse(l));
  try {
    const first = openJsonLog(path);
    first.write({ event: "start" });
    for (const step of [10, 20, 30]) first.write({ step, loss: step === 20 ? NaN : step });
    assert.equal(lines().length, 4, "each line is there at once");
    first.close();
    first.close();

    Deno.writeTextFileSync(path, '{"step":40,"lo', { append: true }); // as a crash leaves it
    const second = openJsonLog(path);
    second.write({ step: 40, loss: 4 });
    second.close();
    assert.deepEqual(lines().slice(1), [
      { step: 10, loss: 10 },
      { step: 20, loss: null },
      { step: 30, loss: 30 },
      { step: 40, loss: 4 },
    ]);

    openJsonLog(path, 20).close();
    assert.deepEqual(lines(), [{ event: "start" }, { step: 10, loss: 10 }, { step: 20, loss: null }]);
    openJsonLog(path, -1).close();
    assert.equal(Deno.readTextFileSync(path), "");
    assert.throws(
      () => openJsonLog(join(folder, "missing", "logs.jsonl")),
      (e) => e instanceof NibbleError && e.code === "train/cannot-write" && e.message.includes("missing"),
    );
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
});
