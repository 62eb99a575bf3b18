"""The child that has a model compiled: `python -m runtime.tuning.compiled_child`, asked by `runtime.tuning.compiled`.

It loads the model twice: the provider compiles it into an empty directory, and then opens it from there. Both answer the same
inputs, so that nobody has to believe that what was kept is the model, or that it is loaded sooner.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import msgspec

from runtime import parity
from runtime.engine import Array
from runtime.example_inputs import sample_requests
from runtime.model import load

_SAMPLES: Final = 4


class CompileOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Which model to compile for which provider, into which (empty) directory."""

    model: str
    provider: str
    session_options: dict[str, str]
    golden: str | None = None
    directory: str = ""

    def into(self, directory: Path) -> CompileOrder:
        """The same for that directory."""
        return msgspec.structs.replace(self, directory=str(directory))


class CompileResult(msgspec.Struct, frozen=True, kw_only=True):
    """What the two loads took until answers came as quickly as ever, in seconds, and how near the answers are, in dB."""

    compiled_s: float
    loaded_s: float
    sqnr_db: float


def compile_it(order: CompileOrder) -> CompileResult:
    """Compile, load again, compare. Raises `RuntimeFailure`."""
    from runtime.engines.provider_child import Try, attempt

    attempt(Try(provider=order.provider))  # else its libraries would be loaded within the first of the two times
    compiled_s, before = _started(order)
    loaded_s, after = _started(order)
    likeness = (parity.likeness_db(one[name], other[name]) for one, other in zip(before, after, strict=True) for name in one)
    return CompileResult(compiled_s=compiled_s, loaded_s=loaded_s, sqnr_db=min(likeness, default=parity.SQNR_LIMIT_DB))


def _started(order: CompileOrder) -> tuple[float, list[dict[str, Array]]]:
    """How long it took until it was ready, in seconds, and its answers."""
    began = time.perf_counter()
    model = load(
        Path(order.model),
        session_options=order.session_options,
        provider=order.provider,
        compiled=Path(order.directory),
    )
    loaded = time.perf_counter()
    requests = sample_requests(model.inputs, order.golden, count=_SAMPLES)
    seconds, answers = [], []
    for request in (requests[0], *requests):
        started = time.perf_counter()
        answers.append(model(request))
        seconds.append(time.perf_counter() - started)
    model.close()
    return loaded - began + max(0.0, seconds[0] - seconds[1]), answers[1:]


if __name__ == "__main__":
    from runtime.children import serve

    serve(CompileOrder, compile_it)
