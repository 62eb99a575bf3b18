"""The gate's child process: `python -m runtime.gate_child`, one `TrialOrder` line on stdin, one `TrialResult` line on stdout.

It limits itself before it touches the candidate, and ends when its parent does: stdin stays open as long as the parent lives.
Nothing else may write to its stdout, so that descriptor is moved aside first.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
from pathlib import Path

import msgspec

from runtime.trial import TrialOrder, run

ORPHANED = 3
"""Exit code of a child whose parent is gone."""


def main() -> None:
    """Do one trial."""
    answer = os.dup(1)
    os.dup2(2, 1)
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=TrialOrder)
    limit(order)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    result = run(Path(order.model), order.session_options, Path(order.golden))
    result = msgspec.structs.replace(result, peak_memory_bytes=peak_memory_bytes())
    os.write(answer, msgspec.json.encode(result) + b"\n")
    os._exit(0)  # without the engine's teardown: what it measured counts, and the process ends anyway


def limit(order: TrialOrder) -> None:
    """No core dumps of other people's models; limits on processor time, memory and wall time behind the parent's own watch."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _lower(resource.RLIMIT_CPU, order.cpu_seconds)
    _lower(resource.RLIMIT_AS, order.address_bytes)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, order.alarm_s)


def _lower(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (allowed, allowed))


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(ORPHANED)


def peak_memory_bytes() -> int:
    """The most memory that this process ever had resident. `ru_maxrss` would count the parent's at fork as well."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    main()
