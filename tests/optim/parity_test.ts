import assert from "node:assert/strict";
import { adapterKind, gpu } from "../../lib/gpu/mod.ts";
import {
  decays,
  learningRate,
  METRICS,
  MIN_8BIT_SIZE,
  OPTIMIZERS,
  type ParameterSpec,
  SCHEDULES,
} from "../../lib/optim/mod.ts";
import { dequantize8bit, dynamicMap, quantize8bit } from "../../lib/quant/mod.ts";
import { EPS, gpuTest, largestError } from "../gpu_helper.ts";
import {
  gradientOf,
  LARGE,
  readReference,
  reference,
  settingsOf,
  sizeOf,
  startOf,
  startWalk,
  stateOf,
} from "./reference_helper.ts";
import { within } from "../parity/within.ts";

const { steps, rates, weight_decay } = reference;

/**
 * Both sides compute in f32. A step rounds w, at most `peak` on its way, twice, and adds an update that carries about 20
 * roundings (moments, corrections, root, quotient, norm, clip). No rule here takes more than 50 lr: RMSprop's first
 * update is 10 lr, which a momentum of 0.8 makes 50.
 */
const tolerance = (peak: number) =>
  2 * EPS * (2 * steps * peak + 20 * 50 * rates.reduce((sum, rate) => sum + rate, 0));

const valuesOf = (key: string, { name }: ParameterSpec) =>
  readReference((source) => source.readF32(`${key}/${name}`));

for (const { optim, optim_args, key, norms } of reference.cases) {
  gpuTest(`parity: 50 steps of ${key} as Trainer's own optimizer takes them`, async () => {
    const walk = startWalk(reference.small, settingsOf(optim, optim_args, true));
    const peaks = reference.small.map(() => 0);
    for (let step = 1; step <= steps; step++) {
      await walk.advance(step, step);
      if (step % 10 === 0) {
        const metrics = await walk.optimizer.metrics.data();
        // sums of 1,274 squares in f32 on both sides, in different order; then a root, which halves the error
        const off = Math.abs(metrics[METRICS.norm]! / norms[step - 1]! - 1);
        within("optimizers: norm, relative", `${key}, step ${step}`, off, 32 * EPS);
        const now = await walk.values();
        now.forEach((w, i) => peaks[i] = w.reduce((a, x) => Math.max(a, Math.abs(x)), peaks[i]!));
      }
    }
    const got = await walk.values();
    walk.dispose();
    const parts = reference.small.map((spec, i) => {
      const error = largestError(got[i]!, valuesOf(key, spec));
      within("optimizers: parameters after 50 steps", `${key}, ${spec.name}`, error, tolerance(peaks[i]!));
      return largestError(got[i]!, startOf(i, spec)) / tolerance(peaks[i]!);
    });
    assert.ok(Math.max(...parts) > 100, `moved by ${parts} tolerances only: the comparison is empty`);
  });
}

Deno.test("parity: any two different rules fail the comparison", () => {
  const same = new Set(["adamw_torch", "adamw_torch_fused", "paged_adamw_32bit"]);
  const values = reference.cases.map(({ key }) => reference.small.map((spec) => valuesOf(key, spec)));
  reference.cases.forEach((a, i) =>
    reference.cases.slice(0, i).forEach((b, k) => {
      if (same.has(a.key) && same.has(b.key)) return;
      const apart = reference.small.map((_, s) => largestError(values[i]![s]!, values[k]![s]!));
      assert.ok(Math.max(...apart) > 10 * tolerance(2), `${a.key} and ${b.key} are ${apart} apart`);
    })
  );
});

Deno.test("parity: every optimizer has a reference", () => {
  const covered = new Set([...reference.cases.map((c) => c.optim), ...reference.cases_8bit]);
  // what is paged is compared with what is not, bit by bit, in paging_test.ts
  assert.deepEqual(OPTIMIZERS.filter((name) => !covered.has(name) && !name.startsWith("paged_")), []);
});

/** AdamW of PyTorch and of bitsandbytes in 8 bits, in f64 but for what is stored, with mistakes to order. */
function adamwOracle(
  specs: readonly ParameterSpec[],
  wrong: { noBiasCorrection?: boolean; blocksize?: number },
  bits: 32 | 8,
) {
  const signed = dynamicMap(true), unsigned = dynamicMap(false), blocksize = wrong.blocksize ?? 256;
  return specs.map((spec, i) => {
    const w = Float64Array.from(startOf(i, spec)), n = w.length;
    const narrow = bits === 8 && n >= MIN_8BIT_SIZE && spec.optim_bits !== 32;
    let m: ArrayLike<number> = new Float64Array(n), v: ArrayLike<number> = new Float64Array(n);
    let codes: [Uint8Array, Uint8Array] | undefined;
    for (let step = 1; step <= steps; step++) {
      const g = gradientOf(i, spec, step, false), lr = rates[step - 1]!;
      const first = new Float64Array(n), second = new Float64Array(n);
      const c1 = wrong.noBiasCorrection ? 1 : 1 - 0.9 ** step,
        c2 = wrong.noBiasCorrection ? 1 : 1 - 0.999 ** step;
      for (let e = 0; e < n; e++) {
        first[e] = 0.9 * m[e]! + 0.1 * g[e]!;
        second[e] = 0.999 * v[e]! + 0.001 * g[e]! * g[e]!;
        if (spec.decay) w[e]! *= 1 - lr * weight_decay;
        w[e]! -= lr / c1 * first[e]! / (Math.sqrt(second[e]! / c2) + 1e-8);
      }
      [m, v] = [first, second];
      if (!narrow) continue;
      const a = quantize8bit(Float32Array.from(m), signed, blocksize);
      const b = quantize8bit(Float32Array.from(v), unsigned, blocksize);
      m = dequantize8bit(a.codes, a.absmax, signed, blocksize);
      v = dequantize8bit(b.codes, b.absmax, unsigned, blocksize);
      codes = [a.codes, b.codes];
    }
    return { w, codes };
  });
}

/** Where bitsandbytes' codes of a parameter lie among ours: its page's place and its first element there. */
function placeOf(walk: ReturnType<typeof startWalk>, name: string) {
  const page = walk.pages.pages.findIndex((p) => p.parameters.some((q) => q.name === name));
  return { page, start: walk.pages.pages[page]!.parameters.find((q) => q.name === name)!.start };
}

const QUANTIZED = LARGE.filter((s) => sizeOf(s.shape) >= MIN_8BIT_SIZE && s.optim_bits !== 32);

/** Share of codes that differ, and the largest difference. */
function codesOff(got: Uint8Array, want: Uint8Array): { share: number; by: number } {
  assert.equal(got.length, want.length);
  let count = 0, by = 0;
  got.forEach((code, i) => {
    if (code === want[i]) return;
    count++;
    by = Math.max(by, Math.abs(code - want[i]!));
  });
  return { share: count / got.length, by };
}

for (const optim of reference.cases_8bit) {
  gpuTest(`parity: 50 steps of ${optim} give bitsandbytes' codes and scales`, async () => {
    // A code flips where rounding carries a number over a border: about 8 ulp of a number among borders 0.7 % apart,
    // so once in 7,000 a step; what a flip changes takes ten steps or more to fade. Both software drivers: none.
    const most = adapterKind(gpu()) === "gpu" ? 0.01 : 0;
    const walk = startWalk(LARGE, settingsOf(optim, null, false));
    const peaks = LARGE.map(() => 0);
    let done = 0;
    for (const step of reference.snapshots) {
      for (; done < step; done++) {
        await walk.advance(done + 1, done + 1);
        const now = await walk.values();
        now.forEach((w, i) => peaks[i] = w.reduce((a, x) => Math.max(a, Math.abs(x)), peaks[i]!));
      }
      const state = await stateOf(walk);
      for (const { name, shape } of QUANTIZED) {
        const { page, start } = placeOf(walk, name), n = sizeOf(shape);
        for (const k of optim.startsWith("lion") ? [1] : [1, 2]) {
          const [codes, absmax] = readReference((source) => [
            source.readBytes(`${optim}/${step}/${name}/state${k}`),
            source.readF32(`${optim}/${step}/${name}/absmax${k}`),
          ]);
          const got = state.get(`state${k}.${page}`)!.subarray(start, start + n);
          const { share, by } = codesOff(got, codes!);
          const what = `${name}, state${k} after step ${step}`;
          within("8-bit optimizers: codes that differ, by one", what, by <= 1 ? share : NaN, most);
          const scales = new Float32Array(state.get(`absmax${k}.${page}`)!.buffer).subarray(start / 256);
          // a scale is one number, which each step rounds some four times; decoding passes its error on
          absmax!.forEach((a, b) =>
            assert.ok(Math.abs(scales[b]! - a) <= 4 * step * EPS * a, `${what}, block ${b}`)
          );
        }
      }
    }
    const got = await walk.values();
    walk.dispose();
    LARGE.forEach((spec, i) => {
      const want = readReference((source) => source.readF32(`${optim}/${steps}/${spec.name}/value`));
      const off = got[i]!.filter((x, e) => !(Math.abs(x - want[e]!) <= tolerance(peaks[i]!))).length;
      assert.ok(
        off <= most * want.length,
        `${spec.name}: ${off} of ${want.length} beyond ${tolerance(peaks[i]!)}`,
      );
    });
  });
}

Deno.test("parity: a missing bias correction and a wrong block size fail the same comparisons", () => {
  const compare = (wrong: Parameters<typeof adamwOracle>[1]) => {
    const results = adamwOracle(QUANTIZED, wrong, 8);
    return QUANTIZED.map((spec, q) => {
      const i = LARGE.findIndex((s) => s.name === spec.name);
      assert.equal(i, q, "quantized parameters come first, so that seeds agree");
      const at = `adamw_bnb_8bit/${steps}/${spec.name}`;
      const [codes, value] = readReference((
        source,
      ) => [source.readBytes(`${at}/state1`), source.readF32(`${at}/value`)]);
      const { w, codes: own } = results[q]!;
      const peak = w.reduce((a, x) => Math.max(a, Math.abs(x)), 0);
      return {
        share: codesOff(own![0], codes as Uint8Array).share,
        error: largestError(w, value!) / tolerance(peak),
      };
    });
  };
  for (const { share, error } of compare({})) {
    assert.ok(
      share < 1e-3 && error <= 1,
      `the right oracle: ${share} of the codes, error ${error} of what is allowed`,
    );
  }
  for (const { share, error } of compare({ noBiasCorrection: true })) {
    assert.ok(share < 1e-3 && error > 100, `without bias correction: ${share}, ${error}`);
  }
  for (const { share } of compare({ blocksize: 128 })) assert.ok(share > 0.01, `blocks of 128: ${share}`);

  const key = "paged_adamw_32bit";
  const [error, broken] = [{}, { noBiasCorrection: true }].map((wrong) => {
    const specs = reference.small;
    const w = adamwOracle(specs, wrong, 32);
    return Math.max(...specs.map((s, i) => largestError(w[i]!.w, valuesOf(key, s))));
  });
  assert.ok(broken! > 1000 * tolerance(2), `${key} without bias correction: ${broken}, right: ${error}`);
});

Deno.test("parity: schedules over whole runs, and past their end, are Transformers'", () => {
  for (const { name, kwargs, total, warmup, rates } of reference.schedules) {
    rates.forEach((rate, step) => {
      const got = learningRate(name, { step, total, warmup, base: 2e-4, kwargs: kwargs ?? undefined });
      // f64 on both sides: a cosine and a few products
      const what = `${name} ${
        JSON.stringify(kwargs)
      }, ${warmup} of ${total}, step ${step}: ${got}, not ${rate}`;
      within("schedules: rate over the largest", what, Math.abs(got - rate) / 2e-4, 16 * 2 ** -53);
    });
  }
  assert.deepEqual([...new Set(reference.schedules.map((s) => s.name))].sort(), [...SCHEDULES].sort());
});

Deno.test("parity: weight decay passes over what Trainer passes over", () => {
  let exempt = 0;
  for (const [family, names] of Object.entries(reference.decayed)) {
    for (const [name, decayed] of Object.entries(names)) {
      assert.equal(decays(name), decayed, `${family}: ${name}`);
      if (!decayed) exempt++;
    }
  }
  assert.ok(exempt > 20);
});
