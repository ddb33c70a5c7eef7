"""Reference numbers of Transformers and PEFT for tests/parity/families_test.ts: every family that nibble knows.

    python3 -m venv venv
    venv/bin/pip install torch==2.13.0 transformers==5.23.0 peft==0.21.2 safetensors==0.8.0 numpy==2.4.6
    venv/bin/python tests/parity/families/make_reference.py

Weights are not stored: both sides draw them from the tensor's name and a counter (`numbers` here, lib/model/
random_source.ts there). A checkpoint of them is written under the names and in the layout of `save_pretrained` and
read by `from_pretrained`, so that what Transformers does on the way is part of the reference. Each case then gives

  logits        of a batch without padding, longer than the sliding window
  grad.NAME     the gradient of the summed loss with respect to every LoRA matrix, r = 4 on all-linear
  full          the norm and one projection of the gradient of every parameter without an adapter
  greedy        ids continued with the cache

the last two in cases.json, where the case's config, its seed and the checkpoint's names and shapes are too. The seed is
the first from which the greedy text is lively and no choice of a token or an expert is close.

Computed in f64: RMSNorm, softmax and the router, which Transformers casts to f32, are replaced by the same formulas
without the cast. Rotary angles stay f32, for so they are defined.
"""
import json
import pathlib
import tempfile

import numpy as np
import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

HERE = pathlib.Path(__file__).parent
R, ALPHA, B, T, PROMPT, NEW = 4, 8, 2, 19, 6, 20
seed = 0
torch.set_num_threads(1)
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

BASE = dict(vocab_size=67, hidden_size=32, intermediate_size=44, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=None, pad_token_id=None)
LLAMA = dict(BASE, model_type="llama", rms_norm_eps=1e-5, tie_word_embeddings=False, rope_theta=100.0)


MIXTRAL = dict(LLAMA, model_type="mixtral", num_local_experts=4, num_experts_per_tok=2, sliding_window=None)


def rope(**scaling):
    return dict(LLAMA, rope_scaling=scaling)


CASES = {
    "llama_gqa_untied": LLAMA,
    "llama_mha_tied": dict(LLAMA, num_key_value_heads=4, tie_word_embeddings=True),
    "llama_biases_head_dim": dict(LLAMA, head_dim=12, attention_bias=True, mlp_bias=True),
    "llama_rope_linear": rope(rope_type="linear", factor=2.5),
    "llama_rope_dynamic": dict(rope(rope_type="dynamic", factor=4.0), max_position_embeddings=12),
    "llama_rope_llama3": rope(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                              original_max_position_embeddings=24),
    "llama_rope_yarn": rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=4.0),
    "mistral_window": dict(LLAMA, model_type="mistral", sliding_window=5),
    "qwen2": dict(LLAMA, model_type="qwen2", tie_word_embeddings=True, use_sliding_window=True, sliding_window=6,
                  max_window_layers=1),
    "qwen3": dict(LLAMA, model_type="qwen3", head_dim=16),
    "smollm3": dict(LLAMA, model_type="smollm3", tie_word_embeddings=True, no_rope_layer_interval=2),
    "gemma": dict(BASE, model_type="gemma", head_dim=16, num_key_value_heads=1, rope_theta=100.0),
    "starcoder2": dict(BASE, model_type="starcoder2", sliding_window=7, rope_theta=100.0),
    "gpt2": dict(model_type="gpt2", vocab_size=67, n_embd=32, n_layer=2, n_head=4, n_positions=48, bos_token_id=1,
                 eos_token_id=None, scale_attn_by_inverse_layer_idx=True),
    "phi3": dict(LLAMA, model_type="phi3", partial_rotary_factor=0.5, sliding_window=6),
    "phi3_longrope": dict(LLAMA, model_type="phi3", original_max_position_embeddings=12,
                          rope_scaling=dict(type="longrope", short_factor=[1.0, 1.1, 1.3, 1.5],
                                            long_factor=[1.0, 2.0, 3.0, 5.0])),
    "mixtral": MIXTRAL,
    "mixtral_balanced": dict(MIXTRAL, output_router_logits=True, router_aux_loss_coef=0.2),
}


def numbers(name, shape):
    """Numbers in [0, 1) from a name and a counter; all of it exact in integers, then in f64."""
    h = 0x811C9DC5
    for c in name.encode():
        h = ((h ^ c) * 0x01000193) & 0xFFFFFFFF
    key = np.uint32(h ^ (((seed + 1) * 0x9E3779B1) & 0xFFFFFFFF))
    counter = np.arange(int(np.prod(shape)), dtype=np.uint32)
    x = (key ^ (counter + np.uint32(0x7F4A7C15))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13)) ^ (counter * np.uint32(0x27D4EB2F))) * np.uint32(0xC2B2AE35)
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    return ((x ^ (x >> np.uint32(15))).astype(np.float64) / 2**32).reshape(shape)


def weight(name, shape, plus_one):
    """As weightOf in families_test.ts: vectors about 1 (norms) or 0 (biases), matrices for outputs of order 1."""
    u = numbers(name, shape)
    if len(shape) > 1:
        embedding = any(part in name for part in ("embed_tokens", "wte", "wpe"))
        u = (2 * u - 1) * ((1 if embedding else 3) / shape[-1] ** 0.5)
    elif name.endswith(".bias") or plus_one:
        u = u - 0.5
    else:
        u = u + 0.5
    return torch.from_numpy(u.astype(np.float32))


def adapter_weight(name, shape):
    return torch.from_numpy(((2 * numbers(name, shape) - 1) * 0.3).astype(np.float32))


# --- f64 all the way ---
softmax, as_float = torch.nn.functional.softmax, torch.Tensor.float
torch.nn.functional.softmax = lambda x, dim=None, dtype=None, **_: softmax(
    x, dim, dtype=None if x.dtype == torch.float64 else dtype)
torch.Tensor.float = lambda x, *a, **k: x if x.dtype == torch.float64 else as_float(x, *a, **k)


def exact_norms(model):
    for module in model.modules():
        kind = type(module)
        if kind.__name__.endswith("RMSNorm"):
            plus = 1.0 if kind.__name__.startswith("Gemma") else 0.0
            eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
            module.forward = lambda x, m=module, e=eps, p=plus: (
                x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + e) * (p + m.weight))


def checkpoint(case, folder):
    """Writes the case's checkpoint; returns its tensors' names and shapes."""
    config = AutoConfig.for_model(**case)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    with safe_open(folder / "model.safetensors", "pt") as f:
        shapes = {name: list(f.get_slice(name).get_shape()) for name in f.keys()}
    plus_one = case["model_type"].startswith("gemma")
    tensors = {n: weight(n, s, plus_one) for n, s in shapes.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return shapes


def load(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    model.config._experts_implementation = "eager"  # the grouped one takes no f64
    model.eval()
    return model


def with_adapter(model):
    """PEFT's adapter on all linear layers, its matrices from `numbers`; gradients come back under nibble's names."""
    model = get_peft_model(model, LoraConfig(r=R, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"))
    named = {n.replace("base_model.model.", "").replace(".default", ""): p
             for n, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for n, p in named.items():
            p.copy_(adapter_weight(n, tuple(p.shape)))
    return model, lambda: {n: p.grad for n, p in named.items()}


def with_mixtral_adapter(model, case, folder):
    """
    Transformers 5 holds the experts of a block in two tensors; PEFT loads an adapter of the modules of Transformers 4
    (`block_sparse_moe.experts.E.w1`), which nibble writes, onto them, w1 and w3 block by block.
    """
    h, i, e = case["hidden_size"], case["intermediate_size"], case["num_local_experts"]
    shapes = {}
    for layer in range(case["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        for name in "qkvo":
            module = model.get_submodule(f"{at}self_attn.{name}_proj")
            shapes[f"{at}self_attn.{name}_proj"] = (module.in_features, module.out_features)
        shapes[f"{at}block_sparse_moe.gate"] = (h, e)
        for n in range(e):
            for name, pair in {"w1": (h, i), "w3": (h, i), "w2": (i, h)}.items():
                shapes[f"{at}block_sparse_moe.experts.{n}.{name}"] = pair
    tensors = {}
    for module, (into, out) in shapes.items():
        for part, shape in {"lora_A": (R, into), "lora_B": (out, R)}.items():
            name = f"{module}.{part}.weight"
            tensors[f"base_model.model.{name}"] = adapter_weight(name, shape)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate", "w1", "w2", "w3"]
    LoraConfig(r=R, lora_alpha=ALPHA, target_modules=targets, task_type="CAUSAL_LM").save_pretrained(folder)
    model = PeftModel.from_pretrained(model, folder, is_trainable=True)
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}

    def gradients():
        found = {}
        for name, p in named.items():
            name = name.replace("base_model.model.", "").replace(".default", "")
            at, g = name[: name.index(".lora_")], p.grad
            at = at.replace(".mlp.", ".block_sparse_moe.")
            if "experts" not in name:
                found[at + name[name.index(".lora_"):]] = g
                continue
            fused = at.endswith("base_layer")  # gate_up_proj lies inside the wrapper of down_proj
            at = at.removesuffix(".base_layer")
            for n in range(e):
                for k, w in enumerate(("w1", "w3") if fused else ("w2",)):
                    rank = 2 * R if fused else R
                    if "lora_A" in name:
                        found[f"{at}.{n}.{w}.lora_A.weight"] = g.reshape(e, rank, -1)[n, k * R : (k + 1) * R]
                    else:
                        columns = g.reshape(-1, rank, e)[:, k * R : (k + 1) * R, n]
                        rows = slice(k * i, (k + 1) * i) if fused else slice(None)
                        found[f"{at}.{n}.{w}.lora_B.weight"] = columns[rows]
        assert found.keys() == {n.removeprefix("base_model.model.") for n in tensors}
        return found

    return model, gradients


def full_gradients(model, case):
    """Gradients of all parameters under the names and in the layout of the checkpoint."""
    found = {}
    for name, p in model.named_parameters():
        if ".mlp.experts." not in name and ".mlp.gate.weight" not in name or case["model_type"] != "mixtral":
            found[name] = p.grad
            continue
        name = name.replace(".mlp.", ".block_sparse_moe.")
        if "experts" not in name:
            found[name] = p.grad
            continue
        at, i = name[: name.rindex(".")], case["intermediate_size"]
        for n, g in enumerate(p.grad):
            parts = {"w1": g[:i], "w3": g[i:]} if name.endswith("gate_up_proj") else {"w2": g}
            found |= {f"{at}.{n}.{w}.weight": part for w, part in parts.items()}
    return found


def probe(name, g):
    """Norm of a gradient, and its product with numbers in ±1 that `numbers` draws."""
    v = torch.from_numpy(2 * numbers("probe." + name, tuple(g.shape)) - 1)
    return [g.norm().item(), (g * v).sum().item()]


def summed_loss(out, ids, config):
    """Summed over tokens; a mixture's load-balancing loss, a mean, times their number."""
    logits, labels = out.logits, ids[:, 1:].reshape(-1)
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), labels, reduction="sum")
    if getattr(config, "output_router_logits", False):
        aux = load_balancing_loss_func(out.router_logits, config.num_local_experts, config.num_experts_per_tok)
        loss = loss + config.router_aux_loss_coef * len(labels) * aux
    return loss


def greedy(model, prompt):
    """Ids continued with the cache, and the least distance of a choice from its rival."""
    out = model.generate(prompt, max_new_tokens=NEW, do_sample=False, output_logits=True, return_dict_in_generate=True,
                         attention_mask=torch.ones_like(prompt), eos_token_id=None, pad_token_id=0)
    top = torch.stack(out.logits).squeeze(1).topk(2).values
    return out.sequences[0, prompt.shape[1]:].tolist(), (top[:, 0] - top[:, 1]).min().item()


def expert_margin(model, ids):
    """The least distance of a chosen expert's logit from the best of the others."""
    least = [float("inf")]

    def hook(module, _, out):
        top = out[0].topk(module.top_k + 1).values
        least[0] = min(least[0], (top[:, -2] - top[:, -1]).min().item())

    routers = [m for m in model.modules() if type(m).__name__ == "MixtralTopKRouter"]
    handles = [m.register_forward_hook(hook) for m in routers]
    with torch.no_grad():
        model(input_ids=ids)
    for handle in handles:
        handle.remove()
    return least[0]


def exact(folder):
    """A fresh model in f64: dynamic rotary tables keep what they grew to."""
    model = load(folder).double()
    exact_norms(model)
    return model


def run(name, case, ids, folder, tensors):
    shapes = checkpoint(case, folder)
    continued, margin = greedy(exact(folder), ids[:1, :PROMPT])
    model = exact(folder)
    if len(set(continued)) < 8 or margin < 0.01 or expert_margin(model, ids) < 0.001:
        return None
    model = exact(folder)
    out = model(input_ids=ids)
    logits, loss = out.logits, summed_loss(out, ids, model.config)
    loss.backward()
    full = {n: probe(n, g) for n, g in full_gradients(model, case).items()}
    if case["model_type"] != "mixtral":
        assert full.keys() == shapes.keys()
    with torch.no_grad():
        deviation = (load(folder)(input_ids=ids).logits.double() - logits).abs().max().item()
    if case["model_type"] == "mixtral":
        model, gradients = with_mixtral_adapter(load(folder), case, folder)
    else:
        model, gradients = with_adapter(load(folder))
    model.double().eval()
    exact_norms(model)
    out = model(input_ids=ids)
    adapted = out.logits
    summed_loss(out, ids, model.config).backward()
    tensors[f"{name}.logits"] = logits.detach().float()
    tensors[f"{name}.adapted"] = adapted[:, -1].detach().float().contiguous()
    for n, g in gradients().items():
        tensors[f"{name}.grad.{n}"] = g.float().contiguous()
    saved = json.loads((folder / "config.json").read_text())
    saved.pop("transformers_version")
    return dict(config=case, saved=saved, seed=seed, checkpoint=shapes, greedy=continued, margin=margin,
                deviation=deviation, loss=loss.item(), full=full)


def main():
    global seed
    cases, tensors = {}, {}
    ids = torch.tensor([[(5 + 11 * t + 29 * b + (t * t) % 7) % 67 for t in range(T)] for b in range(B)])
    for name, case in CASES.items():
        for seed in range(1, 100):
            with tempfile.TemporaryDirectory() as tmp:
                found = run(name, case, ids, pathlib.Path(tmp), tensors)
            if found:
                break
        cases[name] = found
        print(f"{name:24} seed {seed}, f32 deviates {found['deviation']:.1e}, greedy margin {found['margin']:.3f}, "
              f"{len(found['full'])} parameters, {found['greedy'][:8]}")
    save_file(tensors, HERE / "reference.safetensors")
    header = dict(versions=dict(torch=torch.__version__, transformers=transformers.__version__, peft=peft.__version__),
                  r=R, lora_alpha=ALPHA, ids=ids.tolist(), prompt=PROMPT)
    (HERE / "cases.json").write_text(json.dumps(dict(**header, cases=cases)) + "\n")


main()
