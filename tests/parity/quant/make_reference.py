"""Reference hashes of bitsandbytes for tests/parity/quant_test.ts.

    python3 -m venv venv
    venv/bin/pip install -r tests/interop/requirements.txt
    venv/bin/python tests/parity/quant/make_reference.py

Writes reference.json beside itself. Inputs come from NumPy's PCG64, which nibble's lib/data/random.ts reproduces, so only
hashes are stored: the first 16 hexadecimal digits of the SHA-256 of raw bytes.

bitsandbytes has three implementations, which differ in details. nibble follows the rule of the CUDA kernels (csrc/
kernels.cu): multiply by the reciprocal of absmax, compare with the borders; ties go to the lower code. `default`, in
PyTorch, serves the 4-bit codes on processors and differs so:
- in the last, partial block of a tensor it divides by absmax;
- FP4's borders are midpoints, not CUDA's decimal literals (0.00260417), which lie up to some hundred units in the last
  place beside;
- FP4 has two zeros. CUDA gives code 8 to negatives that round to zero, `default` to positives. Both decode to 0.
The hashes are of CUDA's rule with code 8 replaced by 0, `zeros` counts these, and `apart` says in how many codes
`default` decodes to something else. The third one, in C++, quantizes the scales to 8 bits by looking up one of 65,536
bins; `lut` counts the codes in which it differs, by one each, from the comparison with midpoints that CUDA, `default` and
nibble make.
"""
import hashlib
import json
import math
import pathlib
import platform

import bitsandbytes
import bitsandbytes.functional as F
import numpy as np
import torch
from torch._C import DispatchKey, DispatchKeySet

HERE = pathlib.Path(__file__).parent
torch.set_num_threads(1)
DEFAULT = DispatchKeySet(DispatchKey.CompositeExplicitAutograd)
MAP = F.create_dynamic_map().float()
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
SHAPES = [(1, 1), (1, 131), (33, 257), (93, 172), (64, 200), (128, 192)]
BLOCKSIZES = [32, 64, 128, 256, 512, 1024, 2048, 4096]


def normals(count, seed):
    """Sums of four uniform numbers of 22 bits, about normal with deviation 0.577: exact in f32, whatever computes them."""
    draws = np.random.default_rng(seed).integers(0, 2**32, size=4 * count, dtype=np.uint32) >> 10
    total = draws.reshape(count, 4).astype(np.int64).sum(1) - 2**23
    return (total.astype(np.float64) * 2.0**-22).astype(np.float32)


def near_borders(quant_type, blocksize):
    """Numbers on, just below and just above every border, for awkward scales: each block begins with its absmax."""
    code = np.sort(F.get_4bit_type(quant_type, device="cpu").numpy())
    borders = (code[:-1] + code[1:]) / 2
    borders = borders[borders != 0]
    scales = np.concatenate([
        np.array([1, 3, 1 / 3, 0.7, 1e-20, 1e20, 2.0**-110, 1.9999998807907104], np.float32),
        np.abs(normals(40, 5)) + np.float32(1e-3)])
    out = []
    for absmax in scales:
        near = (borders * absmax).astype(np.float32)  # one rounding
        near = np.concatenate([(near.view(np.int32) + k).view(np.float32) for k in (-2, -1, 0, 1, 2)])
        step = blocksize - 1
        for i in range(0, len(near), step):
            part = near[i:i + step]
            block = np.zeros(blocksize, np.float32)
            block[0] = absmax
            block[1:1 + len(part)] = part
            out.append(block)
    return np.concatenate(out)


def sha(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def quantize4(x, blocksize, quant_type):
    return torch.ops.bitsandbytes.quantize_4bit.default(x, blocksize, quant_type, torch.uint8)


def codes(packed, count):
    p = packed.numpy().reshape(-1)
    return np.stack([p >> 4, p & 15], 1).reshape(-1)[:count]


def pack(codes, quant_type):
    """Two codes a byte, an odd one out followed by the code of zero; FP4's two zeros made one."""
    if quant_type == "fp4":
        codes = np.where(codes == 8, 0, codes)
    if codes.size % 2:
        codes = np.append(codes, 7 if quant_type == "nf4" else 0)
    return (codes[::2] << 4 | codes[1::2]).astype(np.uint8)


def cuda_fp4(x, blocksize):
    """dQuantizeFP4 of csrc/kernels.cu: seven decimal literals compared with the absolute value."""
    limits = np.array([0.00260417, 0.0859375, 0.20833333, 0.29166667, 0.4166667, 0.583333, 0.8333333], np.float32)
    blocks = x.reshape(-1, blocksize)
    v = (blocks * (np.float32(1) / np.abs(blocks).max(1, keepdims=True))).reshape(-1)
    return np.array([0, 1, 6, 7, 4, 5, 2, 3])[np.searchsorted(limits, np.abs(v), "left")] + np.where(v < 0, 8, 0)


def cuda_rule(x, blocksize, quant_type):
    """Every block by the reciprocal, and FP4 by its literals."""
    flat = x.float().reshape(-1)
    padded = torch.nn.functional.pad(flat, (0, -flat.numel() % blocksize))
    if quant_type == "fp4":
        return cuda_fp4(padded.numpy(), blocksize)[:flat.numel()]
    return codes(quantize4(padded, blocksize, quant_type)[0], flat.numel())


def different(a, b, quant_type):
    """Codes that decode to different numbers."""
    join = lambda c: np.where(c == 8, 0, c) if quant_type == "fp4" else c
    return int((join(a) != join(b)).sum())


cases = []
seed = 0
for shape in SHAPES:
    for blocksize in BLOCKSIZES:
        for dtype, torch_dtype in DTYPES.items():
            seed += 1
            count = math.prod(shape)
            x = torch.from_numpy(normals(count, seed)).reshape(shape).to(torch_dtype)
            case = {"shape": shape, "blocksize": blocksize, "dtype": dtype, "seed": seed}
            for quant_type in ("nf4", "fp4"):
                packed, absmax = quantize4(x, blocksize, quant_type)
                case["absmax"] = sha(absmax.numpy())
                own, cuda = codes(packed, count), cuda_rule(x, blocksize, quant_type)
                assert np.array_equal(pack(own, "nf4"), packed.numpy().reshape(-1)) or quant_type == "fp4"
                case[quant_type] = sha(pack(cuda, quant_type))
                case[f"{quant_type}_apart"] = different(own, cuda, quant_type)
                if quant_type == "fp4":
                    case["zeros"] = int(np.isin(cuda, (0, 8)).sum())
            cases.append(case)

nested = []
for shape, blocksize, dtype in [
        ((1, 64), 64, "float32"), ((1, 131), 64, "float32"), ((93, 172), 64, "float32"), ((93, 172), 32, "bfloat16"),
        ((128, 192), 64, "float16"), ((172, 1031), 64, "bfloat16"), ((172, 1031), 32, "float32"),
        ((500, 500), 64, "float32"), ((500, 500), 4096, "float32")]:
    seed += 1
    x = torch.from_numpy(normals(math.prod(shape), seed)).reshape(shape).to(DTYPES[dtype])
    packed, absmax = quantize4(x, blocksize, "nf4")
    offset = absmax.mean()
    centred = absmax - offset
    q, scales = torch.ops.bitsandbytes.quantize_blockwise.default.redispatch(DEFAULT, centred, MAP, 256)
    cpp, cpp_scales = torch.ops.bitsandbytes.quantize_blockwise.default(centred, MAP, 256)
    assert torch.equal(scales, cpp_scales) or len(absmax) == 1
    assert (q.int() - cpp.int()).abs().max() <= 1 or len(absmax) == 1
    scales[scales <= 1e-38] = 0  # what `default` puts in place of the 0 of a block of zeros
    nested.append({
        "shape": shape, "blocksize": blocksize, "dtype": dtype, "seed": seed, "packed": sha(packed.numpy()),
        "offset": offset.item(), "offset_exact": float(np.float32(math.fsum(absmax.tolist()) / len(absmax))),
        "codes": sha(q.numpy()), "scales": sha(scales.numpy()), "lut": int((q != cpp).sum())})

borders = []
for quant_type in ("nf4", "fp4"):
    for blocksize in (32, 64, 4096):
        x = near_borders(quant_type, blocksize)
        packed, absmax = quantize4(torch.from_numpy(x), blocksize, quant_type)
        own = codes(packed, x.size)
        cuda = cuda_fp4(x, blocksize) if quant_type == "fp4" else own
        borders.append({
            "quant_type": quant_type, "blocksize": blocksize, "count": x.size, "input": sha(x),
            "absmax": sha(absmax.numpy()), "packed": sha(pack(cuda, quant_type)),
            "apart": different(own, cuda, quant_type)})

reference = {
    "versions": {"bitsandbytes": bitsandbytes.__version__, "torch": torch.__version__, "numpy": np.__version__,
                 "python": platform.python_version()},
    "cases": cases, "nested": nested, "borders": borders,
}
lines = lambda rows: "[\n  " + ",\n  ".join(json.dumps(row) for row in rows) + "\n ]"
(HERE / "reference.json").write_text(
    '{\n "versions": ' + json.dumps(reference["versions"]) + "".join(
        f',\n "{name}": {lines(reference[name])}' for name in ("cases", "nested", "borders")) + "\n}\n")
print(len(cases), "cases; apart", sum(c["nf4_apart"] for c in cases), sum(c["fp4_apart"] for c in cases),
      "; lut", [(math.ceil(math.prod(n["shape"]) / n["blocksize"]), n["lut"]) for n in nested])
