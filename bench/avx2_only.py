"""Runs a program as on a processor that has AVX2 and nothing newer: no AVX-512, no VNNI.

    python -m bench.avx2_only python -m bench runtime
    python -m bench.avx2_only edgeward tune digits-1.0.0

Most of a fleet's processors are of that kind, and int8 there overflows and gains otherwise than on a build machine. The program
runs natively, with the instructions that it would choose there (`avx2_only.c`); clock and caches stay this machine's. It needs
gcc, Linux on x86-64, and `cpuid_fault` in /proc/cpuinfo. What reads /proc/cpuinfo instead of asking the processor still
sees all of it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

_SOURCE: Final = Path(__file__).with_suffix(".c")
_LIBRARY: Final = "avx2_only.so"


def possible() -> bool:
    """Whether this machine can do it."""
    facts = Path("/proc/cpuinfo")
    return shutil.which("gcc") is not None and facts.is_file() and " cpuid_fault " in facts.read_text()


def run(command: list[str], *, timeout_s: float | None = None, capture: bool = False) -> subprocess.CompletedProcess[str]:
    """What became of the command, its output only where `capture` is set. Raises `CalledProcessError` without a compiler."""
    if _LIBRARY in Path("/proc/self/maps").read_text():  # it is so here already, and gcc itself dies of it
        return subprocess.run(command, timeout=timeout_s, capture_output=capture, text=True, check=False)
    with tempfile.TemporaryDirectory(prefix="edgeward-avx2-") as folder:
        library = Path(folder) / _LIBRARY
        subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-o", str(library), str(_SOURCE)], check=True)
        preloaded = ["env", f"LD_PRELOAD={library}", *command]
        return subprocess.run(preloaded, timeout=timeout_s, capture_output=capture, text=True, check=False)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    if not possible():
        sys.exit("This machine cannot: it needs gcc, Linux on x86-64, and cpuid_fault in /proc/cpuinfo.")
    code = run(sys.argv[1:]).returncode
    sys.exit(code if code >= 0 else 128 - code)  # as a shell tells of a signal
