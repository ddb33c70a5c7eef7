"""Reference numbers of PyTorch, Transformers, PEFT and bitsandbytes for tests/parity/parity_test.ts.

    python3 -m venv venv
    venv/bin/pip install -r tests/interop/requirements.txt
    venv/bin/python tests/parity/make_reference.py

Writes beside itself:
  model/                 a tiny random Llama (grouped heads, untied head), F32
  adapter/               PEFT's own LoRA adapter before training (B is zero)
  adapter_step/          an adapter with B random
  step.safetensors       one batch: ids, labels; for the base in f32, in NF4 and in NF4 with double quantization: logits
                         and the gradients of adapter_step; `full/`: the gradients of every weight, without adapter
  trajectory.safetensors the batches, and the adapters after 50 steps of AdamW on the base in f32 and in NF4 with double
                         quantization
  trajectory.json        their losses, gradient norms and learning rates

Everything is computed in f64. On a 4-bit base that is PyTorch on the weights that bitsandbytes decodes. `deviation`
says how far the real thing is from it: the same run in f32, with bitsandbytes' layers. It is the yardstick for the
test's tolerances.
"""
import copy
import json
import math
import pathlib

import bitsandbytes
import peft
import torch
import transformers
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import (AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM,
                          get_cosine_schedule_with_warmup)

HERE = pathlib.Path(__file__).parent
STEPS, WARMUP, ACCUMULATE, B, T = 50, 5, 2, 2, 16
HYPER = dict(lr=5e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
MAX_NORM = 1.0
VERSIONS = {m.__name__: m.__version__ for m in (torch, transformers, peft, bitsandbytes)}

torch.manual_seed(7)
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)

config = LlamaConfig(
    vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=False,
    bos_token_id=1, eos_token_id=2, pad_token_id=0, initializer_range=0.15, attn_implementation="eager")
base = LlamaForCausalLM(config).float().eval()
with torch.no_grad():  # norms that are not all ones
    for name, p in base.named_parameters():
        if "norm" in name:
            p.copy_(0.5 + torch.rand_like(p))
base.save_pretrained(HERE / "model", safe_serialization=True)
for extra in ("generation_config.json",):
    (HERE / "model" / extra).unlink(missing_ok=True)


def in_4bit(double):
    """The base as Transformers with bitsandbytes loads it, and a plain model with the weights that it decodes."""
    settings = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=double,
        bnb_4bit_compute_dtype=torch.float32)
    real = AutoModelForCausalLM.from_pretrained(
        HERE / "model", quantization_config=settings, dtype=torch.float32, device_map="cpu",
        attn_implementation="eager").eval()
    decoded = copy.deepcopy(base)
    count = 0
    for name, layer in real.named_modules():
        if isinstance(layer, Linear4bit):
            state = layer.weight.quant_state
            w = bitsandbytes.functional.dequantize_4bit(layer.weight.data, state)
            assert w.dtype == torch.float32
            decoded.get_submodule(name).weight.data.copy_(w)
            count += 1
    assert count == 14
    return real, decoded


BASES = {"f32": (base, base), "nf4": in_4bit(False), "nf4_double": in_4bit(True)}


def with_adapter(on):
    model = get_peft_model(
        copy.deepcopy(on),
        LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"))
    model.config._name_or_path = "model"
    model.peft_config["default"].base_model_name_or_path = "model"
    return model


def save_adapter(model, folder):
    model.save_pretrained(HERE / folder, safe_serialization=True, save_embedding_layers=False)
    (HERE / folder / "README.md").unlink(missing_ok=True)
    path = HERE / folder / "adapter_config.json"
    saved = json.loads(path.read_text())
    saved["target_modules"].sort()  # a set: in another order every time
    path.write_text(json.dumps(saved, indent=2))


def batch(generator, masked):
    """Ids, labels (not shifted, as Transformers takes them) and the lengths of right-padded rows."""
    ids = torch.randint(3, 96, (B, T), generator=generator)
    labels = ids.clone()
    lengths = torch.tensor([T, T - 3])
    for i, n in enumerate(lengths):
        ids[i, n:] = 0
        labels[i, n:] = -100
        labels[i, :masked] = -100  # the prompt
    return ids, labels, lengths


def attention_mask(lengths):
    return (torch.arange(T)[None, :] < lengths[:, None]).long()


def adapter_of(model):
    return {n.replace(".default", ""): p for n, p in model.named_parameters() if "lora_" in n}


def set_adapter(model, values):
    with torch.no_grad():
        for name, p in adapter_of(model).items():
            p.copy_(values[name])


def forward(model, group, items):
    ids, labels, lengths = group
    return model(input_ids=ids, labels=labels, attention_mask=attention_mask(lengths), num_items_in_batch=items)


def targets(*groups):
    return sum(int((labels[:, 1:] != -100).sum()) for _, labels, _ in groups)


def pack(tensors):
    return {k: v.detach().contiguous().float() for k, v in tensors.items()}


generator = torch.Generator().manual_seed(11)
model = with_adapter(base)
save_adapter(model, "adapter")
initial = {n: p.detach().clone() for n, p in adapter_of(model).items()}
stepped = {n: p if "lora_A" in n else 0.1 * torch.randn(p.shape, generator=generator) for n, p in initial.items()}
set_adapter(model, stepped)
save_adapter(model, "adapter_step")

# one step: logits and gradients
one = batch(generator, 4)
real_tokens = attention_mask(one[2]).bool()


def step(model, named):
    out = forward(model, one, targets(one))
    model.zero_grad()
    out.loss.backward()
    return {"loss": out.loss.item(), "logits": out.logits.detach().double(),
            "grad": {n: p.grad.double().clone() for n, p in named(model).items()}}


def compared(plain, exact):
    return {
        "loss": exact["loss"],
        "deviation": {
            "logits": (plain["logits"] - exact["logits"])[real_tokens].abs().max().item(),
            "gradients": max(((plain["grad"][n] - g).norm() / g.norm()).item() for n, g in exact["grad"].items()),
            "loss": abs(plain["loss"] - exact["loss"]),
        }}


tensors = {"ids": one[0].int(), "labels": one[1].int(), "lengths": one[2].int()}
steps = {}
for form, (real, decoded) in BASES.items():
    runs = []
    for on, kind in ((real, torch.float32), (decoded, torch.float64)):
        model = with_adapter(on)
        set_adapter(model, stepped)
        runs.append(step(model.to(kind) if kind == torch.float64 else model, adapter_of))
    steps[form] = compared(*runs)
    tensors |= pack({f"{form}/logits": runs[1]["logits"],
                     **{f"{form}/grad.{n}": g for n, g in runs[1]["grad"].items()}})
full = [step(copy.deepcopy(base).to(kind), lambda m: dict(m.named_parameters())) for kind in (torch.float32, torch.float64)]
steps["full"] = compared(*full)
tensors |= pack({f"full/grad.{n}": g for n, g in full[1]["grad"].items()})
save_file(tensors, HERE / "step.safetensors", metadata={"steps": json.dumps(steps), "versions": json.dumps(VERSIONS)})

# trajectories: accumulation of two batches, warm-up then cosine, clipping that acts
batches = [batch(generator, 3 + k % 3) for k in range(6)]


def run(model):
    set_adapter(model, initial)
    named = adapter_of(model)
    optimizer = torch.optim.AdamW(named.values(), **HYPER)
    schedule = get_cosine_schedule_with_warmup(optimizer, WARMUP, STEPS)
    log = {"loss": [], "grad_norm": [], "learning_rate": []}
    for step in range(STEPS):
        window = [batches[(step * ACCUMULATE + k) % len(batches)] for k in range(ACCUMULATE)]
        optimizer.zero_grad()
        loss = 0.0
        for group in window:
            out = forward(model, group, targets(*window))
            out.loss.backward()
            loss += out.loss.item()
        log["loss"].append(loss)
        log["grad_norm"].append(torch.nn.utils.clip_grad_norm_(named.values(), MAX_NORM).item())
        log["learning_rate"].append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return log, {n: p.detach().double().clone() for n, p in named.items()}


tensors = {f"batch.{k}.{name}": value.int()
           for k, group in enumerate(batches) for name, value in zip(("ids", "labels", "lengths"), group)}
runs = {}
for form in ("f32", "nf4_double"):
    real, decoded = BASES[form]
    log32, final32 = run(with_adapter(real))
    log64, final64 = run(with_adapter(decoded).double())
    moved = {n: final64[n] - initial[n].double() for n in final64}
    runs[form] = {"log": log64, "deviation": {
        "loss": max(abs(a - b) for a, b in zip(log32["loss"], log64["loss"])),
        "grad_norm": max(abs(a - b) / b for a, b in zip(log32["grad_norm"], log64["grad_norm"])),
        "adapter": max(((final32[n] - final64[n]).norm() / moved[n].norm()).item() for n in final64),
    }}
    tensors |= pack({f"{form}/final.{n}": p for n, p in final64.items()})
    print(form, runs[form]["deviation"], "loss", log64["loss"][0], log64["loss"][-1], "norms", log64["grad_norm"][:3])
    assert math.isfinite(log64["loss"][-1]) and max(log64["grad_norm"]) > MAX_NORM
save_file(tensors, HERE / "trajectory.safetensors")
(HERE / "trajectory.json").write_text(json.dumps({
    "versions": VERSIONS, "steps": STEPS, "warmup": WARMUP, "accumulate": ACCUMULATE, "batches": len(batches),
    "max_norm": MAX_NORM, **{k: list(v) if isinstance(v, tuple) else v for k, v in HYPER.items()}, "runs": runs,
}, indent=1) + "\n")
print(json.dumps({k: v["deviation"] for k, v in steps.items()}))
