import assert from "node:assert/strict";
import { NibbleError } from "../../lib/errors.ts";
import { findOptimizer, OPTIMIZER_ALIASES, OPTIMIZERS, readOptimArgs } from "../../lib/optim/mod.ts";

const is = (code: string, part: RegExp) => (e: unknown) =>
  e instanceof NibbleError && e.code === code && part.test(e.message);

Deno.test("optimizers: names and aliases lead to a rule, a width and a place", () => {
  for (const name of OPTIMIZERS) {
    const found = findOptimizer(name);
    assert.equal(found.name, name);
    assert.equal(found.bits, /8bit/.test(name) ? 8 : 32);
    assert.equal(found.paged, /^paged/.test(name));
  }
  for (const [alias, name] of Object.entries(OPTIMIZER_ALIASES)) {
    assert.equal(findOptimizer(alias).name, name);
  }
  assert.equal(findOptimizer("adamw_8bit").name, "adamw_bnb_8bit");
});

Deno.test("optimizers: a wrong name gets the nearest and the whole list", () => {
  assert.throws(
    () => findOptimizer("adamw_tourch"),
    is("optim/unknown", /Did you mean adamw_torch\?.*paged_adamw_8bit/s),
  );
  assert.throws(
    () => findOptimizer("galore_adamw_layerwise"),
    is("optim/unknown", /Use one of: adamw_torch, /),
  );
  for (const name of ["constructor", "toString", ""]) {
    assert.throws(() => findOptimizer(name), is("optim/unknown", /adafactor/));
  }
});

Deno.test("optim_args: read as Trainer reads them, defaults of PyTorch", () => {
  assert.deepEqual(readOptimArgs("sgd", null), { momentum: 0, dampening: 0, nesterov: false });
  assert.deepEqual(readOptimArgs("sgd", " momentum = 0.9, nesterov=Yes"), {
    momentum: 0.9,
    dampening: 0,
    nesterov: true,
  });
  assert.deepEqual(readOptimArgs("sgd", "nesterov=off,dampening=-0.5").dampening, -0.5);
  assert.deepEqual(readOptimArgs("rmsprop", "alpha=0.9,eps=1e-6,centered=1"), {
    momentum: 0,
    alpha: 0.9,
    eps: 1e-6,
    centered: true,
  });
  assert.deepEqual(readOptimArgs("adagrad", ""), { lr_decay: 0, eps: 1e-10 });
  assert.deepEqual(readOptimArgs("paged_adamw", undefined), {});
});

Deno.test("optim_args: what Trainer would pass over in silence, or PyTorch refuse, is refused with the place", () => {
  const refused: [string, string, RegExp][] = [
    [
      "sgd",
      "momentun=0.9",
      /takes no argument 'momentun'[^]*optim_args: momentun=0.9[^]*momentum, dampening, nesterov/,
    ],
    ["adamw_bnb_8bit", "eps=1", /adamw_bnb_8bit takes no argument 'eps'[^]*It takes none/],
    ["sgd", "weight_decay=0.1", /Use the setting weight_decay/],
    ["sgd", "momentum", /'momentum' is not name=value/],
    ["sgd", "momentum=0.9=1", /is not name=value/],
    ["rmsprop", "alpha=", /alpha must be a number/],
    ["rmsprop", "alpha=high", /alpha must be a number, got 'high'/],
    ["adagrad", "eps=-1", /eps must not be negative/],
    ["sgd", "nesterov=true", /needs a momentum above 0/],
    ["sgd", "nesterov=true,momentum=0.9,dampening=0.1", /no dampening/],
    ["sgd", "constructor=1", /takes no argument 'constructor'/],
  ];
  for (const [optim, args, message] of refused) {
    assert.throws(() => readOptimArgs(optim, args), is("optim/args", message), args);
  }
});
