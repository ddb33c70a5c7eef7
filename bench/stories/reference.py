"""PEFT on PyTorch over the batches that `stories.ts --dump=batches.json` wrote.

    venv/bin/python bench/stories/reference.py ../shared/models/stories260k batches.json

The same tokens in the same order, the same initial adapters, AdamW and schedule of Transformers, float32.
"""
import json
import sys

import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, get_cosine_schedule_with_warmup

base, path = sys.argv[1:3]
print(f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}")


def loss_of(model, batch):
    """Sum of losses over the labels, and their number. Labels are shifted already."""
    shape = (batch["batch"], batch["time"])
    ids = torch.tensor(batch["ids"]).view(shape)
    labels = torch.tensor(batch["labels"]).view(shape)
    logits = model(input_ids=ids).logits  # padding is on the right, and causal attention does not look there
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum")
    return loss, int((labels != -100).sum())


@torch.no_grad()
def held_out(model, batches):
    parts = [loss_of(model, b) for b in batches]
    return sum(float(p) for p, _ in parts) / sum(n for _, n in parts)


for name, data in json.load(open(path)).items():
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"))
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert len(trainable) == len(data["initial"]), (sorted(trainable)[:3], sorted(data["initial"])[:3])
    with torch.no_grad():
        for key, value in data["initial"].items():
            module, half = key.removesuffix(".weight").rsplit(".", 1)
            match = [p for n, p in trainable.items() if f"{module}.{half}" in n.replace(".default", "")]
            assert len(match) == 1, key
            match[0].copy_(torch.tensor(value["values"]).view(value["shape"]))
    optimizer = torch.optim.AdamW(trainable.values(), lr=3e-3, weight_decay=0.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, 20, len(data["windows"]))
    before = held_out(model, data["evals"])
    for window in data["windows"]:
        optimizer.zero_grad()
        parts = [loss_of(model, b) for b in window]
        (sum(p for p, _ in parts) / sum(n for _, n in parts)).backward()
        torch.nn.utils.clip_grad_norm_(trainable.values(), 1.0)
        optimizer.step()
        schedule.step()
    print(f"{name}: {before:.4f} -> {held_out(model, data['evals']):.4f}")
