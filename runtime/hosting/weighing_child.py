"""The child that finds out what a model takes: `python -m runtime.hosting.weighing_child`, asked by `runtime.hosting.pool`.

It loads the model once, asks it once, and says how much anonymous memory that took. The engine's own library is loaded before,
since a program that serves several models has it once. A model that crashes or hangs does so here and not in the program.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from fleet_protocol.manifest import Format
from runtime.engine import format_of
from runtime.example_inputs import example
from runtime.hosting import memory
from runtime.hosting.order import ToOpen
from runtime.model import Model


class Weighed(msgspec.Struct, frozen=True, kw_only=True):
    """The answer."""

    memory_bytes: int


def weigh(order: ToOpen) -> Weighed:
    """Raises `ModelRejected` or `InferenceFailed`."""
    _load_library(format_of(Path(order.model)))
    before = memory.anonymous_bytes()
    model = Model(order.open())
    model(example(model.inputs))
    memory.give_back()
    return Weighed(memory_bytes=max(0, memory.anonymous_bytes() - before))


def _load_library(form: Format) -> None:
    if form == "tflite":
        from runtime.engines import litert_package

        litert_package.find()
    else:
        import runtime.engines.onnx_engine  # noqa: F401  # for what it loads


if __name__ == "__main__":
    from runtime.children import serve

    serve(ToOpen, weigh)
