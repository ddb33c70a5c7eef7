"""Reference numbers of PyTorch, Transformers and PEFT for tests/parity/parity_test.ts.

    python3 -m venv venv
    venv/bin/pip install torch==2.13.0 transformers==5.23.0 peft==0.21.2 safetensors==0.8.0 numpy==2.4.6
    venv/bin/python tests/parity/make_reference.py

Writes beside itself:
  model/                 a tiny random Llama (grouped heads, untied head), F32
  adapter/               PEFT's own LoRA adapter before training (B is zero)
  step.safetensors       one batch: ids, labels, logits, and the LoRA gradients with B random (adapter_step/)
  adapter_step/          the adapter of that batch
  trajectory.safetensors the batches and the adapters after 20 steps of AdamW, computed in f64
  trajectory.json        losses, gradient norms and learning rates of the f64 run, and how far PyTorch's own f32 run
                         is from it: the yardstick for the test's tolerances
"""
import copy
import json
import math
import pathlib

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, get_cosine_schedule_with_warmup

HERE = pathlib.Path(__file__).parent
STEPS, WARMUP, ACCUMULATE, B, T = 20, 4, 2, 2, 16
HYPER = dict(lr=5e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
MAX_NORM = 1.0

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


def with_adapter():
    model = get_peft_model(
        copy.deepcopy(base),
        LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"))
    model.config._name_or_path = "model"
    model.peft_config["default"].base_model_name_or_path = "model"
    return model


def save_adapter(model, folder):
    model.save_pretrained(HERE / folder, safe_serialization=True, save_embedding_layers=False)
    (HERE / folder / "README.md").unlink(missing_ok=True)


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


def trainable(model):
    return {n.replace(".default", ""): p for n, p in model.named_parameters() if p.requires_grad}


def pack(tensors):
    return {k: v.detach().contiguous().float() for k, v in tensors.items()}


generator = torch.Generator().manual_seed(11)
model = with_adapter()
save_adapter(model, "adapter")
initial = copy.deepcopy(model.state_dict())

# one step: logits and gradients
with torch.no_grad():
    for name, p in trainable(model).items():
        if "lora_B" in name:
            p.copy_(0.1 * torch.randn(p.shape, generator=generator))
save_adapter(model, "adapter_step")
ids, labels, lengths = batch(generator, 4)
items = int((labels[:, 1:] != -100).sum())
for kind in (torch.float32, torch.float64):
    model.to(kind)
    out = model(input_ids=ids, labels=labels, attention_mask=attention_mask(lengths), num_items_in_batch=items)
    model.zero_grad()
    out.loss.backward()
    if kind == torch.float32:
        plain = {n: p.grad.clone() for n, p in trainable(model).items()}, out.logits.detach().clone(), out.loss.item()
exact = {n: p.grad.clone() for n, p in trainable(model).items()}
real = attention_mask(lengths).bool()
deviation = {
    "logits": (plain[1].double() - out.logits)[real].abs().max().item(),
    "gradients": max(((plain[0][n].double() - g).norm() / g.norm()).item() for n, g in exact.items()),
    "loss": abs(plain[2] - out.loss.item()),
}
save_file(
    pack({"logits": out.logits, **{f"grad.{n}": g for n, g in exact.items()}})
    | {"ids": ids.int(), "labels": labels.int(), "lengths": lengths.int()},
    HERE / "step.safetensors", metadata={"loss": repr(out.loss.item()), "deviation": json.dumps(deviation)})

# a trajectory: accumulation of two batches, warm-up then cosine, clipping that acts
batches = [batch(generator, 3 + k % 3) for k in range(6)]


def run(kind):
    model.to(kind)
    model.load_state_dict(initial)
    named = trainable(model)
    optimizer = torch.optim.AdamW(named.values(), **HYPER)
    schedule = get_cosine_schedule_with_warmup(optimizer, WARMUP, STEPS)
    log = {"loss": [], "grad_norm": [], "learning_rate": []}
    for step in range(STEPS):
        window = [batches[(step * ACCUMULATE + k) % len(batches)] for k in range(ACCUMULATE)]
        items = sum(int((labels[:, 1:] != -100).sum()) for _, labels, _ in window)
        optimizer.zero_grad()
        loss = 0.0
        for ids, labels, lengths in window:
            out = model(
                input_ids=ids, labels=labels, attention_mask=attention_mask(lengths), num_items_in_batch=items)
            out.loss.backward()
            loss += out.loss.item()
        log["loss"].append(loss)
        log["grad_norm"].append(torch.nn.utils.clip_grad_norm_(named.values(), MAX_NORM).item())
        log["learning_rate"].append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return log, {n: p.detach().double().clone() for n, p in named.items()}


log32, final32 = run(torch.float32)
log64, final64 = run(torch.float64)
before = {n.replace(".default", ""): p.double() for n, p in initial.items() if "lora_" in n}
moved = lambda n: final64[n] - before[n]
deviation = {
    "loss": max(abs(a - b) for a, b in zip(log32["loss"], log64["loss"])),
    "grad_norm": max(abs(a - b) / b for a, b in zip(log32["grad_norm"], log64["grad_norm"])),
    "adapter": max(((final32[n] - final64[n]).norm() / moved(n).norm()).item() for n in final64),
}
save_file(
    pack({f"final.{n}": p for n, p in final64.items()})
    | {f"batch.{k}.{name}": value.int()
       for k, group in enumerate(batches) for name, value in zip(("ids", "labels", "lengths"), group)},
    HERE / "trajectory.safetensors")
(HERE / "trajectory.json").write_text(json.dumps({
    "steps": STEPS, "warmup": WARMUP, "accumulate": ACCUMULATE, "batches": len(batches), "max_norm": MAX_NORM,
    **{k: list(v) if isinstance(v, tuple) else v for k, v in HYPER.items()}, "log": log64, "deviation": deviation,
}, indent=1) + "\n")
print("deviation", deviation, "loss", log64["loss"][0], log64["loss"][-1], "norms", log64["grad_norm"][:3])
assert math.isfinite(log64["loss"][-1]) and max(log64["grad_norm"]) > MAX_NORM
