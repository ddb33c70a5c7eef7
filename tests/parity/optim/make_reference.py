"""Numbers of PyTorch's, Transformers' and bitsandbytes' optimizers and schedules, for tests/optim/parity_test.ts.

    python make_reference.py          (torch, transformers, bitsandbytes, safetensors; no GPU)

Writes reference.json (settings, learning rates, gradient norms, schedules, weight-decay exclusions) and
reference.safetensors (parameters after 50 steps; codes and scales of the 8-bit optimizers after some).

Parameters and gradients come from a generator that the test has too, so they are not stored. Optimizers are made as
Trainer makes them (`Trainer.get_optimizer_cls_and_kwargs`), with its two groups and its 32-bit embeddings.

bitsandbytes' CPU backend quantizes f32 through a table of 65,536 places, which its other backends do not have and which
loses numbers below 1.5e-5 of a block's largest. The reference takes the same backend's path for other types, which is
exact; how far the table is from it is recorded under `table`.
"""

import json
import os
import warnings

import bitsandbytes
import bitsandbytes.backends.cpu.ops as cpu
import numpy as np
import torch
import transformers
from safetensors.numpy import save_file
from transformers import Trainer, TrainingArguments, get_scheduler

warnings.filterwarnings("ignore")
torch.set_num_threads(1)

STEPS, WARMUP, LR, DECAY = 50, 5, 1e-2, 0.1
SMALL = [("a", [13, 17], True), ("b", [173], False), ("c", [31, 7], True), ("d", [1], False), ("e", [2, 331], True)]
# two of at least 4,096 elements whose last block is not whole, one below, one an embedding
LARGE = [("w", [93, 47], True), ("v", [4099], False), ("below", [61, 67], True), ("embed", [70, 64], True)]
SNAPSHOTS = (1, 24, 25, 50)


def noise(n, seed):
    """Uniform in [-1, 1): a linear congruential generator, in f32."""
    s = (seed * 2654435761) & 0xFFFFFFFF
    out = np.empty(n)
    for i in range(n):
        s = (s * 1664525 + 1013904223) & 0xFFFFFFFF
        out[i] = s / 2**32 * 2 - 1
    return out


def start(i, shape):
    return torch.tensor(noise(int(np.prod(shape)), 100 + i).astype(np.float32).reshape(shape))


def gradient(i, step, shape, factor):
    """Fifth powers, so that a block holds numbers of very different size; one in eleven is exactly 0."""
    x = noise(int(np.prod(shape)), 1000 * step + i)
    x = x * x * x * x * x * factor
    if len(x) > 1:
        x[(step * 7) % len(x) :: 11] = 0
    return torch.tensor(x.astype(np.float32).reshape(shape))


def factor(step, clipped):
    """Some steps are clipped and some are not."""
    return (3.0 if step % 3 == 0 else 0.02) if clipped else 1.0


def exact_quantize(A_fp32, code, absmax_out, out_uint8, blocksize):
    out, absmax = torch.ops.bitsandbytes.quantize_blockwise(A_fp32.double(), code, blocksize)
    out_uint8.copy_(out)
    absmax_out.copy_(absmax)


def run(optim, optim_args, specs, clipped):
    params = [torch.nn.Parameter(start(i, shape)) for i, (_, shape, _) in enumerate(specs)]
    args = TrainingArguments(
        output_dir="/tmp/reference",
        optim=optim,
        optim_args=optim_args,
        learning_rate=LR,
        weight_decay=DECAY,
        use_cpu=True,
    )
    cls, kwargs = Trainer.get_optimizer_cls_and_kwargs(args)
    groups = [
        {"params": [p for p, s in zip(params, specs) if s[2]], "weight_decay": DECAY},
        {"params": [p for p, s in zip(params, specs) if not s[2]], "weight_decay": 0.0},
    ]
    if "bit" in optim:
        manager = bitsandbytes.optim.GlobalOptimManager.get_instance()
        manager.initialize()
        for p, (name, *_) in zip(params, specs):
            if name == "embed":
                manager.override_config(p, "optim_bits", 32)
    optimizer = cls(groups, **kwargs)
    schedule = get_scheduler("cosine", optimizer, WARMUP, STEPS)
    rates, norms, snapshots = [], [], {}
    for step in range(1, STEPS + 1):
        for i, (p, (_, shape, _)) in enumerate(zip(params, specs)):
            p.grad = gradient(i, step, shape, factor(step, clipped))
        most = 1.0 if clipped else 1e30
        norms.append(torch.nn.utils.clip_grad_norm_(params, most).item())
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
        if step in SNAPSHOTS:
            snapshots[step] = {name: snapshot(optimizer.state[p], p) for p, (name, *_) in zip(params, specs)}
    return rates, norms, snapshots


def snapshot(state, p):
    out = {"value": p.detach().numpy().copy()}
    for key in ("state1", "state2"):
        if key in state and state[key] is not None and state[key].dtype == torch.uint8:
            out[key] = state[key].numpy().copy().reshape(-1)
            absmax = "absmax" + key[-1]
            out[absmax] = state[absmax].numpy().copy()
    return out


CASES = [
    ("adamw_torch", None),
    ("adamw_torch_fused", None),
    ("paged_adamw_32bit", None),
    ("sgd", None),
    ("sgd", "momentum=0.9"),
    ("sgd", "momentum=0.9, nesterov=true"),
    ("sgd", "momentum=0.8,dampening=0.3"),
    ("rmsprop", None),
    ("rmsprop", "alpha=0.95,eps=1e-6"),
    ("rmsprop", "momentum=0.8"),
    ("rmsprop", "centered=True"),
    ("rmsprop", "centered=yes,momentum=0.5,alpha=0.9"),
    ("adagrad", None),
    ("adagrad", "lr_decay=0.05,eps=1e-8"),
    ("adafactor", None),
    ("lion_32bit", None),
]
CASES_8BIT = ["adamw_bnb_8bit", "lion_8bit"]

SCHEDULES = [
    ("linear", None),
    ("cosine", None),
    ("cosine", {"num_cycles": 1.25}),
    ("cosine_with_restarts", None),
    ("cosine_with_restarts", {"num_cycles": 3}),
    ("polynomial", None),
    ("polynomial", {"power": 2.5, "lr_end": 1e-6}),
    ("constant", None),
    ("constant_with_warmup", None),
    ("inverse_sqrt", None),
    ("inverse_sqrt", {"timescale": 17}),
    ("cosine_with_min_lr", {"min_lr_rate": 0.1}),
    ("cosine_with_min_lr", {"min_lr": 3e-5, "num_cycles": 0.75}),
    ("cosine_warmup_with_min_lr", {"min_lr_rate": 0.1}),
    ("cosine_warmup_with_min_lr", {"min_lr": 1e-5, "warmup_lr_rate": 0.05}),
    ("warmup_stable_decay", {"num_decay_steps": 10}),
    ("warmup_stable_decay", {"num_decay_steps": 7, "num_stable_steps": 9, "min_lr_ratio": 0.1, "decay_type": "linear",
                             "warmup_type": "cosine"}),
    ("warmup_stable_decay", {"num_decay_steps": 12, "min_lr_ratio": 0.2, "decay_type": "1-sqrt", "warmup_type": "1-sqrt"}),
]
RUNS = [{"total": 37, "warmup": 5}, {"total": 24, "warmup": 0}, {"total": 20, "warmup": 1}]


def schedule_rates(name, kwargs, total, warmup, base=2e-4):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base)
    schedule = get_scheduler(name, optimizer, warmup, total, scheduler_specific_kwargs=dict(kwargs) if kwargs else None)
    rates = []
    for _ in range(total + 3):  # a few past the end
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def decayed_names():
    """Trainer's choice for models of several families: name to whether it is decayed."""
    tiny = dict(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
                num_key_value_heads=1, head_dim=4, max_position_embeddings=8)
    configs = {
        "llama": transformers.LlamaConfig(**tiny, attention_bias=True, mlp_bias=True),
        "qwen3": transformers.Qwen3Config(**tiny),
        "gemma": transformers.GemmaConfig(**tiny),
        "starcoder2": transformers.Starcoder2Config(**tiny),
        "mixtral": transformers.MixtralConfig(**tiny, num_local_experts=2),
        "gpt2": transformers.GPT2Config(vocab_size=8, n_embd=8, n_layer=1, n_head=2, n_positions=8),
    }
    out = {}
    for family, config in configs.items():
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(config)
        kept = set(Trainer.get_decay_parameter_names(None, model))
        out[family] = {name: name in kept for name, _ in model.named_parameters()}
    return out


def main():
    tensors, cases, table = {}, [], {}
    for optim, optim_args in CASES:
        rates, norms, shots = run(optim, optim_args, SMALL, clipped=True)
        key = optim if optim_args is None else f"{optim} {optim_args}"
        cases.append({"optim": optim, "optim_args": optim_args, "key": key, "norms": norms})
        for name, shot in shots[STEPS].items():
            tensors[f"{key}/{name}"] = shot["value"]
    stock = cpu._quant_blockwise_fp32_direct
    for optim in CASES_8BIT:
        cpu._quant_blockwise_fp32_direct = stock
        _, _, tabled = run(optim, None, LARGE, clipped=False)
        cpu._quant_blockwise_fp32_direct = exact_quantize
        _, _, shots = run(optim, None, LARGE, clipped=False)
        for step, names in shots.items():
            for name, shot in names.items():
                if "state1" not in shot and step != STEPS:
                    continue
                for part, values in shot.items():
                    if part == "value" and step != STEPS:
                        continue  # codes follow from gradients alone
                    tensors[f"{optim}/{step}/{name}/{part}"] = values
        table[optim] = {
            part: float(np.mean([np.mean(tabled[STEPS][n][part] != shots[STEPS][n][part]) for n in ("w", "v")]))
            for part in shots[STEPS]["w"] if part.startswith("state")
        }
    save_file(tensors, "reference.safetensors")
    os.chmod("reference.safetensors", 0o644)
    reference = {
        "versions": {m.__name__: m.__version__ for m in (torch, transformers, bitsandbytes, np)},
        "steps": STEPS, "warmup": WARMUP, "learning_rate": LR, "weight_decay": DECAY,
        "small": [{"name": n, "shape": s, "decay": d} for n, s, d in SMALL],
        "large": [{"name": n, "shape": s, "decay": d} for n, s, d in LARGE],
        "snapshots": SNAPSHOTS, "rates": rates, "cases": cases, "cases_8bit": CASES_8BIT,
        "table": table,
        "schedules": [
            {"name": name, "kwargs": kwargs, **r, "rates": schedule_rates(name, kwargs, **r)}
            for name, kwargs in SCHEDULES for r in RUNS
            if name != "constant" or r["warmup"] == 5
        ],
        "decayed": decayed_names(),
    }
    with open("reference.json", "w") as f:
        json.dump(reference, f, separators=(",", ":"))
        f.write("\n")


main()
