"""TRL's DPOTrainer over the pairs that `preferences.ts --dump=pairs.json` wrote.

    venv/bin/pip install torch==2.13.0 transformers==4.57.6 trl==0.19.1 peft==0.17.1 datasets==4.8.5
    venv/bin/python bench/stories/preferences_reference.py ../shared/models/stories260k pairs.json

The same tokens in the same order and the same initial adapter, AdamW at a constant rate, float32.
"""
import json
import sys
import tempfile

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

base, path = sys.argv[1:3]
data = json.load(open(path))
tokenizer = AutoTokenizer.from_pretrained(base)
tokenizer.pad_token = tokenizer.eos_token
model = get_peft_model(
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
    LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, task_type="CAUSAL_LM",
               target_modules=sorted({key.split(".")[-3] for key in data["initial"]})))
trainable = {n.replace(".default", ""): p for n, p in model.named_parameters() if p.requires_grad}
assert len(trainable) == len(data["initial"])
with torch.no_grad():
    for key, value in data["initial"].items():
        trainable[f"base_model.model.{key}"].copy_(torch.tensor(value["values"]).view(value["shape"]))


def rows(pairs):
    return Dataset.from_list([{f"{part}_input_ids": pair[part] for part in pair} for pair in pairs])


class InOrder(DPOTrainer):
    """Takes rows that are tokens already, in their order."""

    def _prepare_dataset(self, dataset, *_):
        return dataset

    def _get_train_sampler(self, dataset=None):
        return SequentialSampler(dataset or self.train_dataset)


trainer = InOrder(
    model=model, train_dataset=rows(data["train"]), eval_dataset=rows(data["evals"]), processing_class=tokenizer,
    args=DPOConfig(
        output_dir=tempfile.mkdtemp(), beta=0.1, learning_rate=1e-3, lr_scheduler_type="constant", max_steps=150,
        per_device_train_batch_size=8, per_device_eval_batch_size=8, max_length=None, logging_steps=10, use_cpu=True,
        bf16=False, report_to=[], save_strategy="no", remove_unused_columns=False, disable_tqdm=True))
before = trainer.evaluate()
trainer.train()
after = trainer.evaluate()
print(f"{before['eval_loss']:.4f} -> {after['eval_loss']:.4f}, {100 * after['eval_rewards/accuracies']:.1f} % in order, "
      f"margin {after['eval_rewards/margins']:.3f}")
