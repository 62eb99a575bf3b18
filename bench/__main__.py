"""`python -m bench [NAME …]`: run measurements and print one JSON document."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import platform
import sys

import bench

_PARTS = frozenset({"__main__", "avx2_only", "interleaved", "load", "official_int8", "triton_server", "zoo", "zoo_data"})
"""Of this package, what measures nothing by itself."""


def names() -> list[str]:
    """The measurements that there are."""
    return [module.name for module in pkgutil.iter_modules(bench.__path__) if module.name not in _PARTS]


def main() -> None:
    wanted = sys.argv[1:] or names()
    unknown = sorted(set(wanted) - set(names()))
    if unknown:
        sys.exit(f"There is no measurement called {', '.join(unknown)}. There are: {', '.join(names())}.")
    results = {"machine": {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}}
    for name in wanted:
        print(f"measuring {name} …", file=sys.stderr)
        results[name] = importlib.import_module(f"bench.{name}").measure()
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
