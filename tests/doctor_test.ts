import assert from "node:assert/strict";
import { adviceFor, type Check, checkTable, describeDevice, runChecks } from "../lib/doctor/mod.ts";
import { gpu, type Kernel, type LaunchOptions, openGpu } from "../lib/gpu/mod.ts";
import { sharedMap } from "../lib/quant/quantized_tensor.ts";
import { textStream } from "../lib/text/stream.ts";
import { tensor } from "../lib/tensor/tensor.ts";
import { gpuTest } from "./gpu_helper.ts";

// the map of double quantization is made once a device and stays: not a leak of the first test that needs it
await openGpu();
sharedMap();

gpuTest("every kernel is right on this adapter", async () => {
  const results = await runChecks();
  assert.ok(results.length >= 15);
  assert.deepEqual(results.filter((r) => !r.ok).map((r) => [r.name, r.maxError, r.problem]), []);
});

/** Runs all checks with launches changed on their way to the device. */
async function sabotaged(change: (kernel: Kernel, options: LaunchOptions) => [Kernel, LaunchOptions]) {
  const { kernels } = gpu();
  const { launch } = kernels;
  kernels.launch = (kernel, options) => launch(...change(kernel, options));
  try {
    return (await runChecks()).filter((r) => !r.ok).map((r) => r.name);
  } finally {
    kernels.launch = launch;
  }
}

gpuTest("a wrong kernel is reported, and it alone", async () => {
  let found = false;
  const failed = await sabotaged((kernel, options) => {
    if (kernel.name !== "rms_norm") return [kernel, options];
    const source = kernel.source.replaceAll("1.0 / sqrt(", "2.0 / sqrt(");
    found = source !== kernel.source;
    return [{ ...kernel, name: "rms_norm_wrong", source }, options];
  });
  assert.ok(found, "the kernel no longer has the text that this test changes"); // thrown in a launch, it would pass
  assert.deepEqual(failed, ["rms_norm"]);
});

gpuTest("a wrong number in a launch is reported for every kernel that has one", async () => {
  const wrong: Record<string, Record<string, number>> = {
    rope: { sign: -1 },
    attention: { scale: 0.3 },
    pointwise: { alpha: 0.5 },
    reduce: { scale: 0.99 },
    cross_entropy: { scale: 1.01 },
    adamw: { one_minus_beta2: 0.9 },
    dequantize_4bit: { first_word: 1 },
  };
  // an adapter's own variants are named after the kernel: rope_quad
  const of = ({ name }: Kernel) => wrong[name] ?? wrong[name.replace(/_(texture|quad)$/, "")];
  const failed = await sabotaged((kernel, options) => [
    kernel,
    { ...options, params: { ...options.params, ...of(kernel) } },
  ]);
  for (const name of ["rope", "attention", "reduce", "cross_entropy", "adamw", "NF4 dequantize"]) {
    assert.ok(failed.some((f) => f.startsWith(name)), `${name} was not caught: ${failed.join("; ")}`);
  }
  assert.ok(!failed.includes("embedding"), "what was not touched stays right");
});

gpuTest("a check that throws, gives NaN or too few numbers fails and the rest go on", async () => {
  const check = (name: string, got: number[]): Check => ({
    name,
    tolerance: Infinity,
    build: () => ({ read: [tensor(Float32Array.of(1), [1])], compare: () => ({ got, want: [1] }) }),
  });
  const boom: Check = {
    ...check("boom", []),
    build: () => {
      throw new Error("no such limit");
    },
  };
  const results = await runChecks([boom, check("nan", [NaN]), check("short", []), check("good", [1])]);
  assert.deepEqual(results.slice(0, 1).map((r) => [r.ok, r.problem]), [[false, "no such limit"]]);
  assert.deepEqual(results.map((r) => r.maxError), [NaN, Infinity, Infinity, 0]);
  assert.equal(results[3]!.ok, true);
  assert.match(checkTable(results), /^FAIL {2}boom {3}no such limit$/m);
  assert.match(adviceFor(gpu(), results)[0]!, /of 4 kernels are wrong/);
});

gpuTest("the description names adapter, limits and features", () => {
  const text = describeDevice(gpu());
  for (const part of [gpu().name, "largest binding", "subgroups", "f16", "timestamps", "Deno"]) {
    assert.ok(text.includes(part), part);
  }
});

Deno.test("text stream: characters over several tokens, special tokens, a broken end", () => {
  const bytes = [[0xf0, 0x9f], [0x98], [0x80], [0x61], [0xe2, 0x82]].map((b) => Uint8Array.from(b));
  const stream = textStream({ tokenBytes: (id) => bytes[id]!, isSpecial: (id) => id === 9 });
  assert.deepEqual([0, 1, 9, 2, 3, 4].map((id) => stream.push(id)), ["", "", "", "😀", "a", ""]);
  assert.equal(stream.end(), "\ufffd");
  assert.equal(stream.push(3), "a", "it can be used again");
});
