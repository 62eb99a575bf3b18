"""Makes one proven model ready for this device, and loads it in the best way that is known: tuned, prepared, or as it is.

    kept = Kept(digest, directory)
    make_ready(contender, kept, Effort())      # at install time: takes seconds
    model, fault = load_ready(source, kept)    # at each start: quick, and never fails for what was kept

What was found is only ever advice: where a kept result cannot be read, or what it names does not load, the model is loaded as
it is. Measuring and building stand in `runtime.tuning.measurement` and `runtime.tuning.prepared`; this module puts them
together, what is known already is `runtime.tuning.advice`'s.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from fleet_protocol.manifest import Format
from runtime.device_facts import usable_cores
from runtime.engine import format_of
from runtime.engines import litert_library, providers
from runtime.engines.providers import CPU
from runtime.errors import CannotPrepare, RuntimeFailure
from runtime.model import Model
from runtime.sources import Contender, Source, contenders
from runtime.tuning import cache_entries, compiled, measurement, prepared, results
from runtime.tuning.advice import Kept, as_chosen, as_tuned, best_way, prepared_form
from runtime.tuning.record import Candidate, Objective, Tuning

__all__ = ["ROOM", "Effort", "Kept", "forget", "keep_only", "load_ready", "make_ready"]

log = logging.getLogger(__name__)

ROOM: Final = 3
"""A prepared form takes up to so many times the model's size while it is built."""

_PREPARED: Final[dict[Format, str]] = {
    "onnx": "its graph optimised and its weights packed for this processor",
    "tflite": "its weights packed for this processor",
}
"""What was done, for people."""


@dataclass(frozen=True, slots=True)
class Effort:
    """What making a model ready may take. `tune_s` 0: it is not tuned; `prepare` False: no prepared form is made;
    `providers` False: it is tuned for the CPU alone.

    Models below `smallest_bytes` load within milliseconds as they are; a prepared form would only take room.
    """

    tune_s: float = 5.0
    prepare: bool = True
    smallest_bytes: int = 1024 * 1024
    timeout_s: float = 300.0
    providers: bool = True


def make_ready(contender: Contender, kept: Kept, effort: Effort, *, threads: int | None = None) -> str:
    """Tune the model and build its prepared form, as far as `effort` goes; say for people what came of it.

    What is kept already is not done again. `threads` bounds the threads of one run. Raises `CannotTune`, `CannotPrepare`, or
    another `RuntimeFailure`, and `OSError`: then the model is as good as before, and loads as it is.
    """
    source, said = contender.source, []
    if effort.tune_s > 0:
        said.append(_tuned(contender, kept, effort, threads).describe())
    way = as_tuned(source, kept)
    if effort.prepare and way.provider in (None, CPU) and source.path.stat().st_size >= effort.smallest_bytes:
        said.append(_prepared(contender, way, kept, effort))
    elif effort.prepare and way.provider is not None and providers.compiles(way.provider):
        said.append(make_compiled(way.provider, replace(contender, source=way), kept, timeout_s=effort.timeout_s))
    return "; ".join(said) or "nothing to prepare"


def make_compiled(provider: str, contender: Contender, kept: Kept, *, timeout_s: float) -> str:
    """Have the model compiled for the provider, once; say for people what came of it, or why nothing is kept."""
    try:
        compiled.compile_for(
            provider,
            contender.source.path,
            digest=kept.digest,
            cache=kept.prepared,
            session_options=contender.source.session_options,
            golden=contender.golden,
            timeout_s=timeout_s,
        )
    except CannotPrepare as error:
        return str(error)
    return f"compiled for {providers.parse(provider).describe()}"


def make_chosen_compiled(path: Path, tuning: Tuning, cache: Path, *, timeout_s: float) -> str:
    """Have it compiled for the provider that tuning chose, if that one keeps what it compiles; say for people what came of it.

    Empty where there is nothing to compile. Raises `ModelRejected`.
    """
    chosen = next((each for each in contenders(path) if each.name == tuning.chosen.variant), None)
    provider = tuning.chosen.provider_to_load
    if chosen is None or provider is None or not providers.compiles(provider):
        return ""
    way = replace(chosen, source=as_chosen(chosen.source, tuning))
    return make_compiled(provider, way, Kept(chosen.source.digest, cache), timeout_s=timeout_s)


def load_ready(source: Source, kept: Kept, *, threads: int | None = None) -> tuple[Model, str]:
    """The model in the best way that is known; and the fault of that way (for people), where the model is loaded as it is.

    Raises `ModelRejected` when not even that works.
    """
    way = best_way(source, kept)
    try:
        return way.load(threads=threads), ""
    except (RuntimeFailure, OSError) as error:
        if way == source:
            raise
        forget(source, kept)
        return source.load(threads=threads), f"the way that was prepared does not work: {error}"


def forget(source: Source, kept: Kept) -> None:
    """Keep nothing of how this model is best run; it is loaded as it is from now on."""
    way = as_tuned(source, kept)
    prepared.discard(digest=kept.digest, cache=kept.prepared, session_options=way.session_options)
    if way.provider is not None:
        compiled.discard(way.provider, digest=kept.digest, cache=kept.prepared, session_options=way.session_options)
    try:
        results.forget(kept.tuned, kept.key(source))
    except OSError as error:
        log.warning("the tuning result of %s cannot be removed: %s", source.path, error)


def keep_only(cache: Path, models: Iterable[tuple[Source, Kept]]) -> None:
    """Remove every prepared form but those of these models. Nobody builds one meanwhile."""
    forms = [prepared_form(as_tuned(source, kept), kept) for source, kept in models]
    cache_entries.discard_others(cache / "prepared", {each.compiled or each.path.parent for each in forms if each is not None})


def _tuned(contender: Contender, kept: Kept, effort: Effort, threads: int | None) -> Candidate:
    key = kept.key(contender.source)
    known = results.recall(kept.tuned, key)
    if known is None:
        cores = min(threads or usable_cores(), usable_cores())
        others = providers.others() if effort.providers else ()
        known = measurement.measured([contender], Objective(), seconds=effort.tune_s, cores=cores, others=others)
        results.remember(kept.tuned, key, known)
    return known.chosen


def _prepared(contender: Contender, way: Source, kept: Kept, effort: Effort) -> str:
    path = contender.source.path
    kind = format_of(path)
    if kind == "tflite" and litert_library.library_file() is None:
        return f"its weights packed at each load, since {litert_library.ABSENT}"
    prepared.prepare(
        path,
        digest=kept.digest,
        cache=kept.prepared,
        session_options=way.session_options,
        golden=contender.golden,
        timeout_s=effort.timeout_s,
    )
    return _PREPARED[kind]
