"""Reference numbers of TRL's own trainers for tests/parity/preference_test.ts.

    python3 -m venv venv
    venv/bin/pip install torch==2.13.0 transformers==4.57.6 trl==0.19.1 peft==0.17.1 datasets==4.8.5
    venv/bin/python tests/parity/preference/make_reference.py

On the tiny random Llama of tests/parity/model with the adapter of tests/parity/adapter_step (B is not zero, so that
policy and reference differ), each loss of DPOTrainer, ORPOTrainer and KTOTrainer takes one batch through the
trainer's own `get_batch_loss_metrics`; then DPOTrainer trains for 20 steps from tests/parity/adapter. All in f64,
and once more in f32 to see how far PyTorch itself errs. Only `kto_pair`, which left DPOTrainer with TRL 0.9, is
computed here from its formula (HALOs report, eq. 7, with the gradient through both means, as TRL 0.8.6 had it).

Writes beside itself:
  cases.json            batches, settings, loss and metrics of each case, and the f32 runs' deviations
  gradients.safetensors the gradients of all adapter tensors of each case, joined in sorted order; the adapters after
                        the 20 steps likewise
"""
import copy
import json
import math
import pathlib
import random
import tempfile

import datasets
import peft
import torch
import torch.nn.functional as F
import transformers
import trl
from datasets import Dataset
from peft import PeftModel
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, ORPOConfig, ORPOTrainer

HERE = pathlib.Path(__file__).parent
BASE, STEPS = HERE.parent, 20
torch.manual_seed(3)
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
transformers.logging.set_verbosity_error()
datasets.disable_progress_bars()

words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"t{i}": i for i in range(3, 96)}
bare = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
bare.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=bare, pad_token="<pad>", eos_token="</s>", model_max_length=64, padding_side="right")
out = tempfile.mkdtemp()


def model_of(adapter, kind):
    base = LlamaForCausalLM.from_pretrained(BASE / "model", attn_implementation="eager", dtype=kind)
    model = PeftModel.from_pretrained(base, BASE / adapter, is_trainable=True, autocast_adapter_dtype=False)
    return model.to(kind)


def trainable(model):
    return {n.replace(".default", ""): p for n, p in sorted(model.named_parameters()) if p.requires_grad}


def joined(tensors):
    return torch.cat([tensors[n].detach().double().flatten() for n in sorted(tensors)])


def text(generator, low, high):
    return " ".join(f"t{generator.randint(3, 95)}" for _ in range(generator.randint(low, high)))


def pairs(generator, n):
    return Dataset.from_list([
        {"prompt": text(generator, 3, 7), "chosen": text(generator, 1, 8), "rejected": text(generator, 1, 8)}
        for _ in range(n)])


class KtoPair(DPOTrainer):
    def dpo_loss(self, chosen, rejected, ref_chosen, ref_rejected):
        c, r = chosen - ref_chosen, rejected - ref_rejected
        chosen_kl, rejected_kl = c.mean().clamp(min=0), r.mean().clamp(min=0)
        losses = torch.cat(
            (1 - torch.sigmoid(self.beta * (c - rejected_kl)), 1 - torch.sigmoid(self.beta * (chosen_kl - r))))
        return losses, self.beta * c.detach(), self.beta * r.detach()


SHARED = dict(output_dir=out, report_to=[], use_cpu=True, bf16=False, per_device_train_batch_size=5, max_length=64,
              logging_steps=1, save_strategy="no", remove_unused_columns=False, disable_tqdm=True)
FIVE = pairs(random.Random(5), 5)
CASES = {
    "sigmoid": (DPOTrainer, {}),
    "sigmoid, smoothed": (DPOTrainer, {"label_smoothing": 0.2}),
    "robust": (DPOTrainer, {"loss_type": "robust", "label_smoothing": 0.1}),
    "hinge": (DPOTrainer, {"loss_type": "hinge"}),
    "ipo": (DPOTrainer, {"loss_type": "ipo"}),
    "exo_pair": (DPOTrainer, {"loss_type": "exo_pair"}),
    "nca_pair": (DPOTrainer, {"loss_type": "nca_pair"}),
    "sppo_hard": (DPOTrainer, {"loss_type": "sppo_hard"}),
    "apo_zero": (DPOTrainer, {"loss_type": "apo_zero"}),
    "apo_down": (DPOTrainer, {"loss_type": "apo_down"}),
    "discopop": (DPOTrainer, {"loss_type": "discopop", "discopop_tau": 0.5}),
    "rpo": (DPOTrainer, {"rpo_alpha": 0.7}),
    "kto_pair": (KtoPair, {}),
    "orpo": (ORPOTrainer, {}),
    "kto": (KTOTrainer, {"desirable_weight": 1.5, "undesirable_weight": 0.8}),
}
CONFIGS = {DPOTrainer: DPOConfig, KtoPair: DPOConfig, ORPOTrainer: ORPOConfig, KTOTrainer: KTOConfig}


def trainer_of(kind, case, dtype):
    model = model_of("adapter_step", dtype)
    data = FIVE
    if kind is KTOTrainer:
        data = Dataset.from_list(
            [{"prompt": row["prompt"], "completion": row["chosen" if k % 2 else "rejected"], "label": bool(k % 2)}
             for k, row in enumerate(FIVE)])
    return kind(
        model=model, args=CONFIGS[kind](beta=0.3, **SHARED, **case), train_dataset=data,
        processing_class=copy.deepcopy(tokenizer))


def one(kind, case, dtype):
    trainer = trainer_of(kind, case, dtype)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(5)])
    result = trainer.get_batch_loss_metrics(trainer.model, batch)
    loss, metrics = result
    trainer.model.zero_grad()
    loss.backward()
    return loss.item(), metrics, joined({n: p.grad for n, p in trainable(trainer.model).items()}), trainer


def ids_of(kind, trainer):
    """Prompt and answers of every row as ids, as the trainer made them."""
    rows = []
    for row in trainer.train_dataset:
        if kind is ORPOTrainer:
            n = [sum(v == -100 for v in row[f"{k}_labels"]) for k in ("chosen", "rejected")]
            rows.append({"prompt": row["chosen_input_ids"][:n[0]], "chosen": row["chosen_input_ids"][n[0]:],
                         "rejected": row["rejected_input_ids"][n[1]:]})
        elif kind is KTOTrainer:
            n = len(row["prompt_input_ids"])
            m = len(row["KL_prompt_input_ids"])
            rows.append({"prompt": row["prompt_input_ids"], "answer": row["completion_input_ids"][n:],
                         "mismatched": row["KL_completion_input_ids"][m:], "label": row["label"]})
        else:
            rows.append({"prompt": row["prompt_input_ids"], "chosen": row["chosen_input_ids"],
                         "rejected": row["rejected_input_ids"]})
    return rows


def kto_means(metrics):
    """What KTOTrainer logs from the sums and counts of one batch."""
    means = {"kl": metrics["kl"]}
    for side in ("chosen", "rejected"):
        for name in ("rewards", "logps"):
            means[f"{name}/{side}"] = metrics[f"{name}/{side}_sum"] / metrics[f"count/{side}"]
    means["rewards/margins"] = means["rewards/chosen"] - means["rewards/rejected"]
    return means


cases, gradients = {}, {}
for name, (kind, case) in CASES.items():
    loss32, metrics32, gradient32, _ = one(kind, case, torch.float32)
    loss, metrics, gradient, trainer = one(kind, case, torch.float64)
    if kind is KTOTrainer:
        metrics, metrics32 = kto_means(metrics), kto_means(metrics32)
    if kind is ORPOTrainer:  # means over padding too, which mean nothing
        metrics = {k: v for k, v in metrics.items() if not k.startswith("logits/")}
    cases[name] = {
        "trainer": "kto" if kind is KTOTrainer else "orpo" if kind is ORPOTrainer else "dpo",
        "settings": {"beta": 0.3, **({"loss_type": "kto_pair"} if kind is KtoPair else {}), **case},
        "loss": loss, "metrics": metrics, "rows": ids_of(kind, trainer),
        "deviation": {
            "loss": abs(loss - loss32),
            "metrics": max(abs(metrics[k] - metrics32[k]) for k in metrics),
            "gradient": ((gradient32 - gradient).norm() / gradient.norm()).item(),
        },
    }
    gradients[f"gradient.{name}"] = gradient.float()
    print(f"{name}: {loss:.6f}", cases[name]["deviation"])

HYPER = dict(learning_rate=5e-3, lr_scheduler_type="cosine", warmup_steps=4, weight_decay=0.01, max_grad_norm=1.0)
TRAIN = pairs(random.Random(6), 24)


def trajectory(dtype):
    losses, batches = [], []

    class Recorder(DPOTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            loss = super().compute_loss(model, inputs, *args, **kwargs)
            losses.append(loss.item())
            rows = []
            for i in range(len(inputs["prompt_input_ids"])):
                real = lambda k: inputs[f"{k}_input_ids"][i][inputs[f"{k}_attention_mask"][i].bool()].tolist()
                rows.append({k: real(k) for k in ("prompt", "chosen", "rejected")})
            batches.append(rows)
            return loss

    args = DPOConfig(beta=0.3, seed=11, max_steps=STEPS, **{**SHARED, "per_device_train_batch_size": 4}, **HYPER)
    trainer = Recorder(model=model_of("adapter", dtype), args=args, train_dataset=TRAIN,
                       processing_class=copy.deepcopy(tokenizer))
    before = joined(trainable(trainer.model))
    trainer.train()
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    keys = [k for k in log[0] if k.startswith(("rewards/", "logps/", "logits/")) or k in ("grad_norm", "learning_rate")]
    return {"loss": losses, **{k: [float(e[k]) for e in log] for k in keys}}, batches, before, \
        joined(trainable(trainer.model))


log32, batches32, before, final32 = trajectory(torch.float32)
log, batches, _, final = trajectory(torch.float64)
assert batches == batches32 and len(batches) == STEPS
assert abs(log["loss"][0] - math.log(2)) < 1e-12 and max(log["grad_norm"]) > 1 and log["loss"][-1] < 0.6
gradients["final"] = final.float()
deviation = {
    **{k: max(abs(a - b) for a, b in zip(log32[k], log[k])) for k in log},
    "adapter": ((final32 - final).norm() / (final - before).norm()).item(),
}
print("trajectory", log["loss"][0], log["loss"][-1], deviation)
save_file({k: v.contiguous() for k, v in gradients.items()}, HERE / "gradients.safetensors")
(HERE / "cases.json").write_text(json.dumps({
    "versions": {m.__name__: m.__version__ for m in (torch, transformers, trl, peft, datasets)},
    "cases": cases,
    "trajectory": {"steps": STEPS, "beta": 0.3, **HYPER, "batches": batches, "log": log, "deviation": deviation},
}, indent=None, separators=(",", ":")) + "\n")
