"""What an execution provider compiles of a model, made at install time: TensorRT else takes minutes for it at every load.

    directory = compile_for("qnn", path, digest=digest, cache=cache)    # at install time, in a child process
    directory = find("qnn", digest=digest, cache=cache)                 # at start; None: it compiles again
    model = runtime.model.load(path, provider="qnn", compiled=directory)

Which provider keeps what it compiles, and how, stands in the table of `runtime.engines.providers`. What was compiled is kept
as an entry of the cache (`runtime.tuning.cache_entries`) where a load from it gives the same answers and spares at least
`WORTH` of the time; some providers load no sooner for it.

May not live here: the CPU, for which models are optimised and not compiled (`runtime.tuning.prepared`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from runtime.children import Child
from runtime.device_facts import device_facts
from runtime.engines.providers import parse
from runtime.errors import CannotPrepare, ChildFailed
from runtime.model import NO_OPTIONS
from runtime.tuning import cache_entries
from runtime.tuning.cache_entries import Key
from runtime.tuning.compiled_child import CompileOrder, CompileResult
from runtime.tuning.prepared import MIN_SQNR_DB

CHILD: Final = "runtime.tuning.compiled_child"
WORTH: Final = 0.5
"""Of the time to the first answer, at least: what spares less is not worth its room."""
MOST_TIMES: Final = 3
MOST_MORE_BYTES: Final = 64 << 20
"""What was compiled may take so many times the model's size, and so much beside: a graph, kernels, timings."""


def compile_for(
    provider: str,
    model: Path,
    *,
    digest: str,
    cache: Path,
    session_options: Mapping[str, str] = NO_OPTIONS,
    golden: Path | None = None,
    timeout_s: float = 300.0,
    worth: float = WORTH,
    child: str = CHILD,
) -> Path:
    """The directory of what `provider` compiles of an ONNX model: from the cache where it is whole, else made now.

    `digest` is the content's, `golden` a golden file whose inputs it runs on (without one, numbers that fit the specs): some
    providers compile for the shapes that they saw. The work is done in a child process (`child`: its module), which is stopped
    after `timeout_s`. Raises `CannotPrepare`; then nothing is kept, and the model runs as it is.
    """
    key = _key(provider, digest, session_options)
    entry = cache / key.name()
    if not cache_entries.is_whole(entry, key, every_byte=True):
        if cache_entries.kind(model) != "onnx":
            raise CannotPrepare(f"{model} is a TFLite model, which no execution provider compiles.")
        order = CompileOrder(
            model=str(model),
            provider=provider,
            session_options=dict(session_options),
            golden=None if golden is None else str(golden),
        )
        cache_entries.build(entry, key, lambda at: _fill(at, order, child=child, timeout_s=timeout_s, worth=worth))
    return entry


def find(provider: str, *, digest: str, cache: Path, session_options: Mapping[str, str] = NO_OPTIONS) -> Path | None:
    """What `compile_for` kept, or None when it is not there, not of this device and these libraries, or was changed."""
    key = _key(provider, digest, session_options)
    entry = cache / key.name()
    return entry if cache_entries.is_whole(entry, key, every_byte=False) else None


def discard(provider: str, *, digest: str, cache: Path, session_options: Mapping[str, str] = NO_OPTIONS) -> None:
    """Remove what `compile_for` kept. A model that runs from it goes on running."""
    cache_entries.discard(cache / _key(provider, digest, session_options).name())


def _key(provider: str, digest: str, session_options: Mapping[str, str]) -> Key:
    return Key(digest=digest, session_options=dict(session_options), provider=provider, device=device_facts())


def _fill(staging: Path, order: CompileOrder, *, child: str, timeout_s: float, worth: float) -> None:
    """Have it compiled, and judge what came of it. Raises `CannotPrepare`."""
    try:
        with Child(child) as process:
            result = process.ask(order.into(staging), CompileResult, timeout_s=timeout_s)
        sizes = [path.stat().st_size for path in staging.rglob("*") if path.is_file()]
        most = MOST_TIMES * Path(order.model).stat().st_size + MOST_MORE_BYTES
        why = _objection(result, sum(sizes), most, worth)
    except ChildFailed as error:
        why = str(error)
    if why is not None:
        name = parse(order.provider).describe()
        raise CannotPrepare(f"Nothing is kept of what {name} compiles of {order.model}: {why} It compiles it at each load.")


def _objection(result: CompileResult, size: int, most: int, worth: float) -> str | None:
    """Why what was compiled is not kept, for people; None when it is. `size` and `most` in bytes."""
    if not size:
        return "it wrote no file."
    if size > most:
        return f"it takes {size} bytes, and may take {most}."
    if result.sqnr_db < MIN_SQNR_DB:
        return f"loaded again, it answers otherwise ({result.sqnr_db:.1f} dB, at least {MIN_SQNR_DB:g} wanted)."
    if result.loaded_s > (1 - worth) * result.compiled_s:
        return f"it is ready in {result.loaded_s:.2f} s with it and in {result.compiled_s:.2f} s without."
    return None
