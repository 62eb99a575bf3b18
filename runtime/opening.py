"""`runtime.load`: a model file, or a bundle directory, as the model that runs best here as far as that is known.

May not live here: measuring and preparing (`runtime.tuning.measurement`, `runtime.tuning.prepared`), which are imported only
where somebody names the directory that holds what they found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from fleet_protocol.manifest import MANIFEST_FILE
from fleet_protocol.processing import Processing
from runtime import model, sources
from runtime.errors import EngineUnavailable, ModelRejected
from runtime.model import NO_OPTIONS, Model
from runtime.sources import Source


def load(
    path: Path | str,
    *,
    variant: str | None = None,
    cache: Path | str | None = None,
    session_options: Mapping[str, str] = NO_OPTIONS,
    threads: int | None = None,
    provider: str | None = None,
    delegate: Path | str | None = None,
    processing: Processing | None = None,
    labels: tuple[str, ...] = (),
) -> Model:
    """Open a bundle directory, or a model file (ONNX or TFLite, told by content).

    Of a bundle it takes the named variant; without a name the one that tuning chose here, when `cache` is the directory in
    which `edgeward tune` or `runtime.tuning.readiness` kept what it found, and else the publisher's first that an engine here
    can open. What `cache` knows of running it, and a prepared form there, is used for bare files too. Labels, processing and
    session options come from the manifest; for a bare file they may be given. Every file of a bundle is checked against the
    manifest before an engine sees it.

    `threads` bounds the threads of one run (1 or more). `provider` is where an ONNX model runs (`cpu`, `cuda:0`, `auto`, …),
    `delegate` the library that runs a TFLite model; without them it is the CPU. Whoever gives one of these two, or session
    options, wants no advice: of `cache` only what that provider compiled of the model is taken. Raises `ModelRejected`, and
    its `EngineUnavailable` where no engine, or not that provider or delegate, works here.
    """
    path, delegate = Path(path), None if delegate is None else Path(delegate)
    cache = None if cache is None else Path(cache)
    advised = cache if delegate is None and not session_options else None
    if (path / MANIFEST_FILE).is_file():
        if session_options or processing is not None or labels:
            raise ModelRejected(f"{path} is a bundle: options, processing and labels are its manifest's. Leave them out.")
        field = [replace(each, provider=provider, delegate=delegate) for each in variants(path, variant)]
        return _best_known(field, advised, threads)
    if variant is not None:
        raise ModelRejected(f"{path} is no bundle, and has no variants. Leave out the variant, or give a bundle.")
    if advised is not None:
        source = replace(sources.find(path), provider=provider, processing=processing, labels=labels)
        return _best_known([source], advised, threads)
    return model.load(
        path,
        session_options=session_options,
        threads=threads,
        provider=provider,
        delegate=delegate,
        processing=processing,
        labels=labels,
    )


def variants(path: Path, variant: str | None) -> list[Source]:
    """The bundle's variants, the publisher's preferred first, or the one that is named; a bare file's one.

    Raises `ModelRejected`.
    """
    found = [each.source for each in sources.contenders(path)]
    field = [each for each in found if variant in (None, each.identity.variant)]
    if not field or (variant is not None and not (path / MANIFEST_FILE).is_file()):
        sources.find(path, variant=variant)  # says which variants there are
    return field


def _best_known(field: list[Source], cache: Path | None, threads: int | None) -> Model:
    """As tuning chose, and in its prepared form, as far as `cache` knows of either; else the first that can be opened."""
    if cache is None:
        return _first(field, lambda source: source.load(threads=threads))
    from runtime.tuning.advice import advise, advise_where

    if field[0].provider is not None:
        return _first(field, lambda source: advise_where(source, cache).load(threads=threads)[0])
    best = advise(field, cache)
    others = [each for each in field if each is not best.plain]
    ways = {id(each): advise([each], cache) for each in others} | {id(best.plain): best}
    return _first([best.plain, *others], lambda source: ways[id(source)].load(threads=threads)[0])


def _first(field: list[Source], load_it: Callable[[Source], Model]) -> Model:
    """The first that an engine here can open. Raises `ModelRejected`."""
    missing: EngineUnavailable | None = None
    for source in field:
        try:
            return load_it(source)
        except EngineUnavailable as error:
            missing = missing or error
    assert missing is not None
    raise missing
