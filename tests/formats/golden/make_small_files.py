"""Small files written by the reference libraries: a safetensors file and a GGUF model.

    pip install gguf==0.19.0 numpy==2.4.6 safetensors==0.8.0
    python make_small_files.py > small_files.json

The GGUF model is a one-layer llama, rows of q and k permuted by llama.cpp's own formula, so that undoing it can be
checked: each row of the Hugging Face tensors holds its own row number.
"""
import base64
import json
import tempfile

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import GGUFWriter
from gguf.quants import quantize
from safetensors.numpy import save

b64 = lambda b: base64.b64encode(b).decode()
out = {}

out["safetensors"] = b64(save(
    {
        "w.f32": np.arange(6, dtype=np.float32).reshape(2, 3) / 4,
        "w.f16": np.array([1.5, -2.25, 65504, 6e-8], dtype=np.float16),
        "ids.i64": np.array([-1, 2**40], dtype=np.int64),
        "codes.u8": np.arange(5, dtype=np.uint8),
        "empty": np.zeros((0, 4), dtype=np.float32),
        "scalar": np.array(2.5, dtype=np.float64),
    },
    metadata={"format": "pt"},
))


def permute(w, heads):  # as llama.cpp's convert_hf_to_gguf.py does
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


HIDDEN, HEADS, KV, FFN, VOCAB = 32, 4, 2, 64, 10
rows = lambda n: np.repeat(np.arange(n, dtype=np.float16)[:, None], HIDDEN, 1)
with tempfile.NamedTemporaryFile(suffix=".gguf") as f:
    w = GGUFWriter(f.name, "llama")
    w.add_name("tiny")
    w.add_context_length(128)
    w.add_embedding_length(HIDDEN)
    w.add_block_count(1)
    w.add_feed_forward_length(FFN)
    w.add_head_count(HEADS)
    w.add_head_count_kv(KV)
    w.add_rope_freq_base(100000.0)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_dimension_count(HIDDEN // HEADS)
    w.add_vocab_size(VOCAB)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("smollm")
    w.add_token_list(["<s>", "</s>", "a", "b", "1", "2", "Ġ", "ab", "Ġa", "12"])
    w.add_token_types([3, 3, 1, 1, 1, 1, 1, 1, 1, 1])
    w.add_token_merges(["a b", "Ġ a", "1 2"])
    w.add_bos_token_id(0)
    w.add_eos_token_id(1)
    w.add_add_bos_token(False)
    w.add_chat_template("{{ messages }}")
    q8 = lambda name, x: w.add_tensor(name, quantize(x.astype(np.float32), T.Q8_0), raw_dtype=T.Q8_0)
    w.add_tensor("token_embd.weight", rows(VOCAB))
    w.add_tensor("output_norm.weight", np.arange(HIDDEN, dtype=np.float32))
    w.add_tensor("blk.0.attn_norm.weight", np.ones(HIDDEN, dtype=np.float32))
    w.add_tensor("blk.0.ffn_norm.weight", np.ones(HIDDEN, dtype=np.float32))
    w.add_tensor("blk.0.attn_q.weight", permute(rows(HIDDEN), HEADS))
    w.add_tensor("blk.0.attn_q.bias", permute(np.arange(HIDDEN, dtype=np.float32), HEADS))
    w.add_tensor("blk.0.attn_k.weight", permute(rows(HIDDEN // 2), KV))
    w.add_tensor("blk.0.attn_v.weight", rows(HIDDEN // 2))
    q8("blk.0.attn_output.weight", rows(HIDDEN))
    q8("blk.0.ffn_gate.weight", rows(FFN))
    q8("blk.0.ffn_up.weight", rows(FFN))
    w.add_tensor("blk.0.ffn_down.weight", np.zeros((HIDDEN, FFN), dtype=np.float16))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    out["gguf"] = b64(open(f.name, "rb").read())
print(json.dumps(out, indent=1))
