"""Blocks of every ggml type that nibble reads, with the values that ggml's own Python package decodes from them.

    pip install gguf==0.19.0 numpy==2.4.6
    python make_ggml_blocks.py > ggml_blocks.json

Types that the package can quantize get quantized normal numbers; the K and IQ types get random bytes with
ordinary f16 steps (any bits are valid codes and scales there). Values are base64 of little-endian f32.
"""
import base64
import json

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.quants import dequantize, quantize

BLOCKS = 3
# Type: byte offsets of the f16 numbers in a block.
RANDOM = {
    T.Q2_K: [80, 82],
    T.Q3_K: [108],
    T.Q4_K: [0, 2],
    T.Q5_K: [0, 2],
    T.Q6_K: [208],
    T.IQ4_NL: [0],
    T.IQ4_XS: [0],
}
QUANTIZED = [T.F16, T.BF16, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0]


def b64(a):
    return base64.b64encode(a.tobytes()).decode()


rng = np.random.default_rng(0)
out = {"made_by": f"gguf {gguf.__dict__.get('__version__', '0.19.0')}, numpy {np.__version__}", "types": {}}
for t in QUANTIZED:
    x = rng.standard_normal((1, 32 * BLOCKS)).astype(np.float32)
    raw = quantize(x, t)
    out["types"][t.name] = {
        "id": int(t), "bytes": b64(raw), "values": b64(dequantize(raw, t).astype("<f4")), "quantized_from": b64(x),
    }
for t, places in RANDOM.items():
    size, width = gguf.GGML_QUANT_SIZES[t]
    raw = rng.integers(0, 256, (1, BLOCKS * width), dtype=np.uint8)
    for b in range(BLOCKS):
        for at in places:
            d = np.array([rng.uniform(-0.02, 0.02)], dtype=np.float16)
            raw[0, b * width + at: b * width + at + 2] = d.view(np.uint8)
    out["types"][t.name] = {"id": int(t), "bytes": b64(raw), "values": b64(dequantize(raw, t).astype("<f4"))}
print(json.dumps(out, indent=1))
