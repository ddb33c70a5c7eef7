"""What the check_*.py scripts share: `@check("name")` on a function of the topic's folder, and `run()` at the end.

A check returns a short detail (its largest difference, a count) or None, and fails by raising. Each prints one line,
`name ... ok (detail)`, which tools/interop.ts counts.
"""
import pathlib
import sys
import time
import traceback

CHECKS = []
# what they registered is gone with them
LIBRARIES = []


class Skip(Exception):
    """Raised by a check that cannot be made on this machine."""


def check(name):
    def register(function):
        CHECKS.append((name, function))
        return function

    return register


def exact_bitsandbytes():
    """bitsandbytes in the arithmetic of its PyTorch backend, before models are made.

    On processors with AVX-512 its own (0.50.2) decodes weights wrongly whose rows are shorter than a block, as those of
    small models are; and with AVX-512 BF16, Linear4bit packs such a weight anew, which fails, to multiply in bf16
    whatever compute type was asked for.
    """
    import bitsandbytes.nn.modules
    import torch
    from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
    from bitsandbytes.backends.utils import _get_4bit_code

    def dequantize_4bit(A, absmax, blocksize, quant_type, shape, dtype):
        codes, table = A.contiguous().view(torch.uint8).reshape(-1), _get_4bit_code(quant_type, A.device)
        return _dequantize_4bit_compute(codes, absmax.float(), table, blocksize, shape, dtype)

    bitsandbytes.nn.modules.has_avx512bf16 = lambda: False
    LIBRARIES.append(torch.library.Library("bitsandbytes", "IMPL"))
    LIBRARIES[-1].impl("dequantize_4bit", dequantize_4bit, "CPU", allow_override=True)


def run():
    folder, failed = pathlib.Path(sys.argv[1]), 0
    for name, function in CHECKS:
        at = time.perf_counter()
        try:
            detail = function(folder)
            verdict = "ok"
        except Skip as reason:
            verdict, detail = "ignored", str(reason)
        except Exception as error:
            traceback.print_exc()
            failed += 1
            verdict, detail = "FAILED", f"{type(error).__name__}: {error}".splitlines()[0][:300]
        took = f"{time.perf_counter() - at:.1f}s"
        print(f"{name} ... {verdict} ({f'{detail}, ' if detail else ''}{took})", flush=True)
    sys.exit(1 if failed else 0)
