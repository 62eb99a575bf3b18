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
    path: Path,
    *,
    variant: str | None = None,
    cache: Path | None = None,
    session_options: Mapping[str, str] = NO_OPTIONS,
    threads: int | None = None,
    provider: str | None = None,
    delegate: Path | None = None,
    processing: Processing | None = None,
    labels: tuple[str, ...] = (),
) -> Model:
    """Open a bundle directory, or a model file (ONNX or TFLite, told by content).

    Of a bundle it takes the named variant; without a name the one that tuning chose here, when `cache` is the directory in
    which `edgeward tune` or `runtime.tuning.readiness` kept what it found, and else the publisher's first that an engine here
    can open. A prepared form in `cache` is used where there is one. Labels, processing and session options come from the
    manifest; for a bare file they may be given. Every file is checked against the manifest before an engine sees it.

    `threads` bounds the threads of one run (1 or more). `provider` is where an ONNX model runs (`cpu`, `cuda:0`, `auto`, …),
    `delegate` the library that runs a TFLite model; without them it is the CPU. Raises `ModelRejected`, and its
    `EngineUnavailable` where no engine, or not that provider or delegate, works here.
    """
    if (path / MANIFEST_FILE).is_file():
        if session_options or processing is not None or labels:
            raise ModelRejected(f"{path} is a bundle: options, processing and labels are its manifest's. Leave them out.")
        return _of_bundle(path, variant, cache, threads=threads, provider=provider, delegate=delegate)
    if variant is not None:
        raise ModelRejected(f"{path} is no bundle, and has no variants. Leave out the variant, or give a bundle.")
    return model.load(
        path,
        session_options=session_options,
        threads=threads,
        provider=provider,
        delegate=delegate,
        processing=processing,
        labels=labels,
    )


def _of_bundle(
    path: Path, variant: str | None, cache: Path | None, *, threads: int | None, provider: str | None, delegate: Path | None
) -> Model:
    found = [each.source for each in sources.contenders(path)]
    field = [each for each in found if variant in (None, each.identity.variant)]
    if not field:
        sources.find(path, variant=variant)  # says which variants there are
    field = [replace(each, provider=provider, delegate=delegate) for each in field]
    if cache is None or provider is not None or delegate is not None:
        return _first(field, lambda source: source.load(threads=threads))
    return _best_known(field, cache, threads)


def _best_known(field: list[Source], cache: Path, threads: int | None) -> Model:
    """As tuning chose, and in its prepared form, as far as `cache` knows of either."""
    from runtime.tuning import measurement, readiness

    known = measurement.recall(cache, measurement.key_of(field[0].identity.manifest))
    if known is not None and known.chosen.variant in {each.identity.variant for each in field}:
        chosen = known.chosen
        source = next(each for each in field if each.identity.variant == chosen.variant)
        options, provider = chosen.session_options(source.session_options), measurement.provider_of(chosen)
        field = [replace(source, session_options=options, provider=provider), *field]
        threads = min((each for each in (threads, chosen.threads) if each is not None), default=None)
    kept = {each.digest: readiness.Kept(each.digest, cache) for each in field}
    return _first(field, lambda source: readiness.load_ready(source, kept[source.digest], threads=threads)[0])


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
