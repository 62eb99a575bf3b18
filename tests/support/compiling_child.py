"""A child that compiles as a test asks for, in place of `runtime.tuning.compiled_child`: most providers need hardware."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from runtime.children import serve
from runtime.tuning.compiled_child import CompileOrder, CompileResult


def answer(order: CompileOrder) -> CompileResult:
    """`how` stands among the session options."""
    how = order.session_options.get("how", "")
    file = Path(order.directory) / "kernels" / "engine.bin"
    if how != "empty":
        file.parent.mkdir()
        file.write_bytes(order.provider.encode())
    if how == "large":
        os.truncate(file, 1 << 30)
    if how == "crash":
        os.abort()
    if how == "hang":
        threading.Event().wait()
    return CompileResult(compiled_s=10.0, loaded_s=9.0 if how == "slow" else 1.0, sqnr_db=20.0 if how == "other" else 200.0)


if __name__ == "__main__":
    serve(CompileOrder, answer)
