"""PEFT, Transformers, bitsandbytes and gguf on what write.ts wrote; adapters of PEFT's own for read.ts."""
import json
import os
import warnings

import gguf
import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from interop import check, exact_bitsandbytes, run

exact_bitsandbytes()
HERE = os.path.dirname(os.path.abspath(__file__))
BASE = os.path.normpath(f"{HERE}/../../parity/adapters/base")
IDS = [5, 9, 60, 2, 7, 31, 2, 8, 8, 44, 12, 3]
NF4 = BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32,
)
# f32 on both sides: sums of at most 44 products, 10 products in a row, each rounded once a side
EPS = 2**-24
RELATIVE = 2 * 440 * EPS
# double-quantized scales are decoded with or without a fused multiply-add, an EPS of every weight
RELATIVE_NF4 = 2 * RELATIVE


def load(path, nf4=False, **more):
    options = {"quantization_config": NF4} if nf4 else {}
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, **options, **more).eval()


def logits(model):
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0].float()


def compare(got, folder, name, relative):
    want = load_file(folder / "logits" / f"{name}.safetensors")["logits"]
    error, size = (got - want).abs().max().item(), want.abs().max().item()
    assert error <= relative * size, f"{error} of {size}, allowed {relative * size}"
    return f"largest difference {error:.1e} of {size:.1f}"


def cases(folder):
    return sorted(p.parent.name for p in folder.glob("*/adapter_config.json") if p.parent.name != "llama")


def register(name):
    @check(f"PEFT loads nibble's adapter {name}, same logits")
    def _(folder):
        nf4 = name.endswith("nf4")
        config = json.loads((folder / name / "adapter_config.json").read_text())
        assert config["auto_mapping"]["nibble"]["base_hash"].startswith("sha256"), "the base's fingerprint"
        model = load(config["base_model_name_or_path"], nf4)
        before = logits(model)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            model = PeftModel.from_pretrained(model, folder / name).eval()
        odd = [str(w.message) for w in seen if "keyword" in str(w.message) or "missing" in str(w.message)]
        assert not odd, odd
        got = logits(model)
        assert (got - before).abs().max() > 1e-2, "the adapter says something"
        return compare(got, folder, name, RELATIVE_NF4 if nf4 else RELATIVE)


for case in (
    "all_linear patterns layers dora dora_nf4 embeddings bias_all bias_lora_only_nf4 whole_mlp pissa pissa_dora pissa_nf4 "
    "olora olora_nf4 loftq_nf4"
).split():
    register(case)


@check("all adapters that nibble wrote were loaded")
def _(folder):
    names = cases(folder)
    assert len(names) == 15, names


@check("Transformers loads the merged model from its shards, same logits and tokens")
def _(folder):
    assert len(list((folder / "merged").glob("model-*-of-*.safetensors"))) > 1
    tokenizer = AutoTokenizer.from_pretrained(folder / "merged")
    assert tokenizer.chat_template and tokenizer.eos_token_id == 2
    return compare(logits(load(folder / "merged")), folder, "merged", RELATIVE * 4)  # 5 blocks


@check("Transformers with bitsandbytes loads the merged model quantized again, same logits")
def _(folder):
    model = AutoModelForCausalLM.from_pretrained(folder / "merged_nf4").eval()
    torch.nn.Module.float(model)  # Transformers refuses; what is in 4 bits stays so
    kinds = {type(m).__name__ for m in model.modules()}
    assert "Linear4bit" in kinds, kinds
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":  # decoded and multiplied in f32, as nibble does
            module.compute_dtype = torch.float32
            module.weight.quant_state.dtype = torch.float32
            module.support_avx512bf16_for_cpu = False
    return compare(logits(model), folder, "merged_nf4", RELATIVE_NF4 * 4)


def reader(path):
    file = gguf.GGUFReader(path)
    return {key: field.contents() for key, field in file.fields.items()}, {t.name: t for t in file.tensors}


def unpermuted(x, heads):
    return x.reshape(heads, x.shape[0] // heads // 2, 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}


@check("the gguf package reads the merged model's GGUF: values, vocabulary, template, stop token")
def _(folder):
    hf = {}
    for shard in (folder / "merged").glob("model-*.safetensors"):
        hf.update(load_file(shard))
    tokenizer = json.loads((folder / "merged" / "tokenizer.json").read_text())
    for kind, quantization in (("F16", gguf.GGMLQuantizationType.F16), ("Q8_0", gguf.GGMLQuantizationType.Q8_0)):
        meta, tensors = reader(folder / "merged" / f"merged-{kind}.gguf")
        assert len(tensors) == len(hf), (len(tensors), len(hf))
        for layer in range(5):
            for name, stem in NAMES.items():
                t = tensors[f"blk.{layer}.{stem}.weight"]
                assert t.tensor_type == quantization, t
                want = hf[f"model.layers.{layer}.{name}.weight"].float().numpy()
                heads = {"attn_q": 4, "attn_k": 2}.get(stem)
                exact = gguf.quantize(want if heads is None else permuted(want, heads), quantization)
                assert np.array_equal(t.data, exact), f"{t.name} is not what gguf writes"
                back = gguf.dequantize(t.data, t.tensor_type).astype(np.float32)
                back = back if heads is None else unpermuted(back, heads)
                assert np.abs(back - want).max() <= (2**-25 if kind == "F16" else np.abs(want).max() * (1 / 254 + 2**-11))
        norm = tensors["blk.0.attn_norm.weight"]
        assert norm.tensor_type == gguf.GGMLQuantizationType.F32
        assert meta["general.architecture"] == "llama" and meta["general.type"] == "model"
        assert meta["tokenizer.ggml.tokens"][0] == "<|endoftext|>" and len(meta["tokenizer.ggml.tokens"]) == 2048
        assert len(meta["tokenizer.ggml.merges"]) == len(tokenizer["model"]["merges"])
        assert meta["tokenizer.ggml.eos_token_id"] == 2 and "im_start" in meta["tokenizer.chat_template"]
        assert list(meta["tokenizer.ggml.token_type"][:5]) == [3, 3, 3, 3, 1]


def permuted(x, heads):
    return x.reshape(heads, 2, x.shape[0] // heads // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


@check("Transformers loads the F16 GGUF, same logits as nibble")
def _(folder):
    model = load(folder / "merged", gguf_file="merged-F16.gguf")
    return compare(logits(model), folder, "merged-merged-F16.gguf", RELATIVE * 4)


@check("the adapter's GGUF holds PEFT's change of every weight")
def _(folder):
    meta, tensors = reader(folder / "llama.gguf")
    assert meta["general.type"] == "adapter" and meta["adapter.type"] == "lora"
    saved = load_file(folder / "llama" / "adapter_model.safetensors")
    model = PeftModel.from_pretrained(load(os.path.normpath(f"{HERE}/../../../assets/models/tiny")), folder / "llama")
    worst = 0
    for layer in range(5):
        for name, stem in NAMES.items():
            module = model.base_model.model.get_submodule(f"model.layers.{layer}.{name}")
            want = module.get_delta_weight("default").numpy()
            a, b = (tensors[f"blk.{layer}.{stem}.weight.lora_{x}"].data for x in "ab")
            got = meta["adapter.lora.alpha"] / a.shape[0] * (b @ a)
            heads = {"attn_q": 4, "attn_k": 2}.get(stem)
            got = got if heads is None else unpermuted(got, heads)
            worst = max(worst, np.abs(got - want).max() / np.abs(want).max())
    assert len(tensors) == len(saved) and worst < 1e-6, worst
    return f"largest difference {worst:.1e} of the largest"


PEFTS_OWN = {
    "dora_patterns": dict(
        r=2, use_dora=True, target_modules=["q_proj", "v_proj"], rank_pattern={"v_proj": 3}, alpha_pattern={"0.*": 5},
    ),
    "embeddings_rslora": dict(r=2, use_rslora=True, target_modules=["v_proj"], modules_to_save=["embed_tokens"]),
    "bias_and_layers": dict(r=2, target_modules=["q_proj", "o_proj"], bias="lora_only", layers_to_transform=[0]),
    "pissa": dict(r=2, init_lora_weights="pissa", target_modules=["up_proj"]),
    "olora_nf4": dict(r=2, init_lora_weights="olora", target_modules=["q_proj"]),
    "dora_nf4": dict(r=2, use_dora=True, target_modules=["q_proj", "down_proj"]),
}


@check("PEFT writes adapters for nibble to read")
def _(folder):
    torch.manual_seed(5)
    for name, settings in PEFTS_OWN.items():
        model = load(BASE, name.endswith("nf4"))
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings)).eval()
        with torch.no_grad():
            for p in model.parameters():
                if p.requires_grad:
                    p.add_((torch.rand(p.shape) - 0.5) * 0.4)
        model.save_pretrained(folder / "python" / name)
        save_file({"logits": logits(model).contiguous()}, folder / "python" / f"{name}.safetensors")


run()
