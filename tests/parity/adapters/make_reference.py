"""Adapters made by PEFT on a tiny Qwen2 (which has biases), with the logits and gradients that PyTorch gets with them.

    pip install torch==2.13.0 transformers==5.23.0 peft==0.21.2 bitsandbytes==0.50.2 safetensors==0.8.0
    python make_reference.py

Writes base/, one PEFT folder a case, reference.safetensors (logits, gradients, decompositions) and reference.json
(versions; the settings of each case; which modules PEFT adapts and how). Values are random with a fixed seed; the base's
are bfloat16 numbers, so that its file is small and its float32 is exact.
"""
import json
import os
import shutil
import warnings

import bitsandbytes as bnb
import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from transformers import Qwen2Config, Qwen2ForCausalLM

warnings.filterwarnings("ignore")
HERE = os.path.dirname(os.path.abspath(__file__))
IDS = [5, 9, 60, 2, 7, 31, 2, 8, 8, 44, 12, 3]
CONFIG = dict(
    vocab_size=61, hidden_size=32, intermediate_size=44, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=True, rope_theta=100.0,
    eos_token_id=2,
)
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

# Settings of the adapters that are written and measured.
CASES = {
    "patterns": dict(
        r=3, lora_alpha=5, use_rslora=True, target_modules=["q_proj", "down_proj", "layers.1.mlp.up_proj"],
        rank_pattern={"layers.0.self_attn.q_proj": 2, "down_proj": 4}, alpha_pattern={r"1\.mlp\.(up|down)_proj": 7},
    ),
    "dora": dict(r=2, lora_alpha=3, use_dora=True, target_modules=ALL),
    "dora_rslora_nf4": dict(r=4, lora_alpha=3, use_dora=True, use_rslora=True, target_modules=["q_proj", "down_proj"]),
    "embeddings": dict(r=2, target_modules=["v_proj"], modules_to_save=["lm_head", "embed_tokens"]),
    "bias_all": dict(r=2, target_modules=["q_proj", "o_proj"], bias="all"),
    "bias_lora_only": dict(
        r=2, target_modules=["k_proj", "up_proj"], bias="lora_only", layers_to_transform=[1], layers_pattern="layers",
    ),
    "whole_mlp": dict(
        r=2, target_modules=["q_proj", "k_proj", "gate_proj"], exclude_modules=["layers.0.self_attn.k_proj"],
        modules_to_save=["1.mlp", "norm"],
    ),
    "pissa": dict(r=2, lora_alpha=6, init_lora_weights="pissa", target_modules=["q_proj", "gate_proj"]),
    "olora": dict(r=2, lora_alpha=1, init_lora_weights="olora", target_modules=["v_proj", "down_proj"]),
}

# Settings of which only the choice of modules is recorded.
TARGETS = [
    dict(target_modules="all-linear"),
    dict(target_modules=["q_proj", "v_proj"]),
    dict(target_modules=r".*\.1\.(self_attn\.[qk]_proj|mlp\..*_proj)"),
    dict(target_modules=["model.layers.0.mlp.up_proj", "q_proj"], layers_to_transform=1),
    dict(target_modules=["q_proj", "up_proj"], layers_to_transform=[0], layers_pattern=["layers", "h"]),
    dict(target_modules=["q_proj", "up_proj"], layers_to_transform=[]),
    dict(target_modules=["up_proj"], exclude_modules=r".*\.0\..*"),
    dict(target_modules="all-linear", exclude_modules=["mlp.up_proj", "k_proj"]),
    dict(target_modules="all-linear", modules_to_save=["layers.1"]),
    dict(target_modules=["q_proj", "v_proj"], rank_pattern={"^model.layers.1.self_attn.q_proj": 5, "q_proj": 3}),
    dict(target_modules=["q_proj", "v_proj"], alpha_pattern={"proj": 9, r".*\.0\..*": 4, "0.self_attn.v_proj": 1}),
    dict(target_modules=["q_proj", "v_proj"], rank_pattern={r"(?P<l>layers)\.0\..*": 6}, use_rslora=True),
]


def base():
    torch.manual_seed(1)
    model = Qwen2ForCausalLM(Qwen2Config(**CONFIG))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 2:
                p.normal_(0, 1.2 / p.shape[1] ** 0.5)
            else:
                p.uniform_(-0.5, 0.5).add_(0 if name.endswith("bias") else 1)
            p.copy_(p.bfloat16().float())
    return model.eval()


def in_4_bits(model, compress):
    """The linear layers of the blocks in bitsandbytes' NF4."""
    for name, module in list(model.named_modules()):
        if not isinstance(module, torch.nn.Linear) or name == "lm_head":
            continue
        new = bnb.nn.Linear4bit(
            module.in_features, module.out_features, bias=module.bias is not None, compute_dtype=torch.float32,
            compress_statistics=compress, quant_type="nf4",
        )
        new.weight = bnb.nn.Params4bit(
            module.weight.data, requires_grad=False, compress_statistics=compress, quant_type="nf4", module=new,
        )
        new.bias = module.bias
        new._is_hf_initialized = True
        parent, child = name.rsplit(".", 1)
        setattr(model.get_submodule(parent), child, new.to("cpu"))
    return model


def stir(model, seed):
    """Everything trainable away from where it began."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.requires_grad:
                p.add_((torch.rand(p.shape, generator=g) - 0.5) * (0.4 if "lora_magnitude" not in name else 1.0))


def logits(model):
    model.eval()
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0].clone()


def adapted(model):
    out = {}
    for name, module in model.base_model.model.named_modules():
        if isinstance(module, LoraLayer):
            out[name] = [module.r["default"], module.scaling["default"]]
    return out


tensors, record = {}, {
    "made_by": f"peft {peft.__version__}, transformers {transformers.__version__}, torch {torch.__version__}, "
    f"bitsandbytes {bnb.__version__}",
    "ids": IDS, "cases": {}, "targets": [],
}
model = base()
shutil.rmtree(f"{HERE}/base", ignore_errors=True)
model.to(torch.bfloat16).save_pretrained(f"{HERE}/base")
for extra in ("generation_config.json",):
    os.remove(f"{HERE}/base/{extra}")
tensors["base.logits"] = logits(base())

for case, settings in CASES.items():
    nf4 = case.endswith("nf4")
    torch.manual_seed(2)
    model = in_4_bits(base(), False) if nf4 else base()
    config = LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, **settings)
    config.base_model_name_or_path = "base"
    model = get_peft_model(model, config)
    if settings.get("init_lora_weights") in ("pissa", "olora"):
        for name, module in model.base_model.model.named_modules():
            if isinstance(module, LoraLayer) and name.startswith("model.layers.0."):
                tensors[f"{case}.residual.{name}"] = module.base_layer.weight.data.clone()
    stir(model, 3)
    shutil.rmtree(f"{HERE}/{case}", ignore_errors=True)
    model.save_pretrained(f"{HERE}/{case}")
    os.remove(f"{HERE}/{case}/README.md")
    tensors[f"{case}.logits"] = logits(model)
    model.disable_adapter_layers()
    record["cases"][case] = {
        "settings": settings,
        "adapted": adapted(model),
        "nf4": nf4,
    }
    model.enable_adapter_layers()
    if "dora" in case or case in ("embeddings", "bias_all", "whole_mlp"):
        labels = torch.tensor([IDS])
        model.train()
        loss = model(torch.tensor([IDS]), labels=labels).loss
        loss.backward()
        tensors[f"{case}.loss"] = loss.detach().reshape(1)
        for name, p in model.named_parameters():
            if p.grad is not None:
                key = name.removeprefix("base_model.model.").replace(".default", "").replace(".modules_to_save", "")
                tensors[f"{case}.grad.{key}"] = p.grad.clone()
    # what was saved is what is loaded
    again = PeftModel.from_pretrained(in_4_bits(base(), False) if nf4 else base(), f"{HERE}/{case}")
    difference = (logits(again) - tensors[f"{case}.logits"]).abs().max().item()
    assert difference < 1e-4, (case, difference)

for settings in TARGETS:
    model = get_peft_model(base(), LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=6, **settings))
    record["targets"].append({"settings": settings, "adapted": adapted(model)})

# PiSSA's adapter as PEFT converts it to LoRA for the base as it was
torch.manual_seed(2)
model = get_peft_model(base(), LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, **CASES["pissa"]))
initial = f"{HERE}/initial_adapter"
model.peft_config["default"].init_lora_weights = True
model.save_pretrained(initial)
model.peft_config["default"].init_lora_weights = "pissa"
stir(model, 3)
shutil.rmtree(f"{HERE}/pissa_converted", ignore_errors=True)
model.peft_config["default"].base_model_name_or_path = "base"
model.save_pretrained(f"{HERE}/pissa_converted", path_initial_model_for_weight_conversion=initial)
shutil.rmtree(initial)
os.remove(f"{HERE}/pissa_converted/README.md")
again = PeftModel.from_pretrained(base(), f"{HERE}/pissa_converted")
assert (logits(again) - tensors["pissa.logits"]).abs().max().item() < 1e-4

# LoftQ, one round (PEFT's own function wants a GPU): the best rank-2 correction of NF4's error
for module in ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj"):
    w = base().get_submodule(module).weight.data
    for compress in (False, True):
        q, state = bnb.functional.quantize_4bit(w, quant_type="nf4", compress_statistics=compress)
        error = w - bnb.functional.dequantize_4bit(q, state)
        u, s, vh = torch.linalg.svd(error.double(), full_matrices=False)
        tensors[f"loftq.{'dq' if compress else 'plain'}.{module}"] = ((u[:, :2] * s[:2]) @ vh[:2]).float()

save_file({k: v.contiguous().float() for k, v in tensors.items()}, f"{HERE}/reference.safetensors")
with open(f"{HERE}/reference.json", "w") as f:
    json.dump(record, f, indent=1)
    f.write("\n")
