"""What the check_*.py scripts share: `@check("name")` on a function of the topic's folder, and `run()` at the end.

A check returns a short detail (its largest difference, a count) or None, and fails by raising. Each prints one line,
`name ... ok (detail)`, which tools/interop.ts counts.
"""
import pathlib
import sys
import time
import traceback

CHECKS = []


class Skip(Exception):
    """Raised by a check that cannot be made on this machine."""


def check(name):
    def register(function):
        CHECKS.append((name, function))
        return function

    return register


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
