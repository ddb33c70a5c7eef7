/**
 * The LoRA step of `bench/peers.ts` in jax-js: a Llama with frozen weights, the mean loss, and its gradients by every A
 * and B.
 * @module
 */
import type { Jax } from "./jax.ts";
import { timed, type Work } from "./serve.ts";
import { adapterValues, LORA_SCALE, MODULES, RANK, type StepTask, tokensOf, weightsOf } from "./task.ts";

interface LlamaConfig {
  hidden_size: number;
  num_hidden_layers: number;
  num_attention_heads: number;
  num_key_value_heads: number;
  vocab_size: number;
  rope_theta: number;
  rms_norm_eps: number;
}

/** Weights by name, A and B by module: jax-js takes any tree of arrays. */
type Tree = Record<string, Jax>;

// An argument of jax-js is consumed by the function it goes to; `.ref` keeps it for another use.

function loss(jax: Jax, task: StepTask, adapters: Tree, base: Tree, ids: Jax, targets: Jax): Jax {
  const { numpy: np, nn } = jax, { batch: B, time: T } = task;
  const c = task.config as unknown as LlamaConfig;
  const heads = c.num_attention_heads, kvHeads = c.num_key_value_heads, D = c.hidden_size / heads;
  const norm = (x: Jax, weight: Jax) => {
    const scale = np.sqrt(np.mean(np.square(x.ref), -1, { keepdims: true }).add(c.rms_norm_eps));
    return x.div(scale).mul(weight.ref);
  };
  const linear = (x: Jax, name: string) => {
    const h = np.matmul(x.ref, np.transpose(adapters[`${name}.a`].ref));
    const low = np.matmul(h, np.transpose(adapters[`${name}.b`].ref)).mul(LORA_SCALE);
    return np.matmul(x, np.transpose(base[`${name}.weight`].ref)).add(low);
  };
  const rotate = (x: Jax) => { // (B, T, heads, D), halves as Llama pairs them
    const [p, q] = np.split(x, 2, -1);
    const { cos, sin } = base;
    return np.concatenate([
      p.ref.mul(cos.ref).sub(q.ref.mul(sin.ref)),
      q.mul(cos.ref).add(p.mul(sin.ref)),
    ], -1);
  };
  let x = np.take(base["model.embed_tokens.weight"].ref, ids, 0); // (B T, C)
  for (let i = 0; i < c.num_hidden_layers; i++) {
    const at = `model.layers.${i}`;
    const h = norm(x.ref, base[`${at}.input_layernorm.weight`]);
    const q = rotate(linear(h.ref, `${at}.self_attn.q_proj`).reshape([B, T, heads, D]));
    const k = rotate(linear(h.ref, `${at}.self_attn.k_proj`).reshape([B, T, kvHeads, D]));
    const v = linear(h, `${at}.self_attn.v_proj`).reshape([B, T, kvHeads, D]);
    const mixed = nn.dotProductAttention(q, k, v, { isCausal: true }).reshape([B * T, c.hidden_size]);
    x = x.add(linear(mixed, `${at}.self_attn.o_proj`));
    const g = norm(x.ref, base[`${at}.post_attention_layernorm.weight`]);
    const gated = nn.silu(linear(g.ref, `${at}.mlp.gate_proj`)).mul(linear(g, `${at}.mlp.up_proj`));
    x = x.add(linear(gated, `${at}.mlp.down_proj`));
  }
  const last = norm(x, base["model.norm.weight"]);
  const logits = np.matmul(last, np.transpose(base["model.embed_tokens.weight"].ref)); // (B T, V)
  return np.sum(nn.logSoftmax(logits, -1).mul(targets)).mul(-1 / (B * (T - 1)));
}

/** Arrays of a step's frozen weights, with the rotations' cosines and sines. */
function baseOf(np: Jax, task: StepTask): Tree {
  const c = task.config as unknown as LlamaConfig, source = weightsOf(task.config), base: Tree = {};
  for (const { name, shape } of source.tensors.values()) {
    base[name] = np.array(source.readF32(name)).reshape(shape);
  }
  const half = c.hidden_size / c.num_attention_heads / 2;
  const angle = (i: number) => Math.floor(i / half) * c.rope_theta ** (-(i % half) / half);
  const table = (f: (angle: number) => number) =>
    np.array(Float32Array.from({ length: task.time * half }, (_, i) => f(angle(i))))
      .reshape([1, task.time, 1, half]);
  return { ...base, cos: table(Math.cos), sin: table(Math.sin) };
}

export function jaxStep(jax: Jax, task: StepTask): Work {
  const { numpy: np } = jax, c = task.config as unknown as LlamaConfig;
  const base = baseOf(np, task), adapters: Tree = {};
  const names = Array.from(
    { length: c.num_hidden_layers },
    (_, i) => MODULES.map((name) => `model.layers.${i}.${name}`),
  ).flat();
  for (const [i, name] of names.entries()) {
    const [out, in_] = base[`${name}.weight`].shape as [number, number];
    adapters[`${name}.a`] = np.array(adapterValues(i, "a", RANK * in_)).reshape([RANK, in_]);
    adapters[`${name}.b`] = np.array(adapterValues(i, "b", out * RANK)).reshape([out, RANK]);
  }
  const tokens = tokensOf(task), V = c.vocab_size;
  // one row of a target is 1 at the token that follows, 0 everywhere at the end of a sequence
  const hot = new Float32Array(tokens.length * V);
  tokens.forEach((_, n) => (n + 1) % task.time && (hot[n * V + tokens[n + 1]!] = 1));
  const ids = np.array(Int32Array.from(tokens), { dtype: np.int32 });
  const targets = np.array(hot).reshape([tokens.length, V]);
  const step = jax.jit(
    jax.valueAndGrad((a: Tree, b: Tree, ids: Jax, t: Jax) => loss(jax, task, a, b, ids, t)),
  );
  const run = () => step(jax.tree.ref(adapters), jax.tree.ref(base), ids.ref, targets.ref);
  return {
    async time(repeats) {
      const results: Jax[] = [];
      const ms = await timed(() => {
        for (let i = 0; i < repeats; i++) results.push(run());
      }, () => jax.blockUntilReady(results));
      jax.tree.dispose(results);
      return ms;
    },
    /** The loss, then the norm of all gradients; `at` has no meaning. */
    async values() {
      const [value, gradients] = run();
      let squares = 0;
      for (const gradient of jax.tree.leaves(gradients)) {
        for (const v of await gradient.data() as Float32Array) squares += v * v;
      }
      return [(await value.data())[0], Math.sqrt(squares)];
    },
    close() {
      jax.tree.dispose([adapters, base, ids, targets]);
      step.dispose();
    },
  };
}
