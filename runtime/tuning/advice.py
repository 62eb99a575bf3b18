"""How a model is best run on this device, as far as anybody found out: what `edgeward tune` and preparation left in a cache.

    advice = advise(field, cache)      # `field`: the variants that may be taken, the publisher's preferred first
    model, why = advice.load()

Nothing is measured or built here. What was found is advice: where it does not work, the model is opened as it was published.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from fleet_protocol.digests import digest_of
from fleet_protocol.processing import Processing
from runtime import sources
from runtime.device_facts import usable_cores
from runtime.engines.providers import CPU, compiles
from runtime.errors import ModelRejected, RuntimeFailure
from runtime.hosting.batching import most_worth
from runtime.model import Model
from runtime.sources import Source
from runtime.tuning import results
from runtime.tuning.record import Tuning, TuningKey

AS_ASKED: Final = "as published, as was asked for"
AS_PUBLISHED: Final = "as published, since nothing else is known on this device"


@dataclass(frozen=True, slots=True)
class Kept:
    """Where what was found of one file is kept: `digest` is the file's, `cache` a directory that may be gone any day."""

    digest: str
    cache: Path

    @property
    def tuned(self) -> Path:
        """The directory of tuning results."""
        return self.cache / "tuned"

    @property
    def prepared(self) -> Path:
        """The directory of prepared forms."""
        return self.cache / "prepared"

    def key(self, source: Source) -> TuningKey:
        """What a tuning result is kept under: the file, and how its publisher wants it opened."""
        return results.key_of(digest_of(f"{self.digest} {sorted(source.session_options.items())}".encode()))


@dataclass(frozen=True, slots=True)
class Advice:
    """`source` says how to open the model here, `plain` how its publisher would; `why` is for people.

    `typical_s` is what one run of `source` took where it was measured, in seconds.
    """

    source: Source
    plain: Source
    why: str
    typical_s: float | None = None

    def processed(self, processing: Processing) -> Advice:
        """The same with other processing than the manifest's."""
        source, plain = (replace(each, processing=processing) for each in (self.source, self.plain))
        return replace(self, source=source, plain=plain)

    def load(self, *, threads: int | None = None) -> tuple[Model, str]:
        """The model, and how it was opened, for people. Raises `ModelRejected` when it opens in no way."""
        try:
            return self.source.load(threads=threads), self.why
        except (RuntimeFailure, OSError) as error:
            if self.source == self.plain:
                raise
            return self.plain.load(threads=threads), failed(error)


def failed(error: Exception) -> str:
    """Why a model runs as published though something better was known, for people."""
    return f"as published, since the way that is known on this device does not work: {error}"


def advise_on(path: Path, *, variant: str | None, cache: Path) -> Advice:
    """The best way that is known of a bundle or a bare file: of its variant of that name, else of that which tuning chose.

    Raises `ModelRejected`.
    """
    source = sources.find(path, variant=variant)
    tuning = results.newest(cache, source.identity.manifest)
    if variant is None and tuning is not None and tuning.chosen.variant != source.identity.variant:
        with contextlib.suppress(ModelRejected):  # what was kept may be damaged, and is advice
            source = sources.find(path, variant=tuning.chosen.variant)
    return advise([source], cache)


def advise(field: Sequence[Source], cache: Path) -> Advice:
    """The best way that is known of one model, of which these variants may be taken."""
    tuning = results.newest(cache, field[0].identity.manifest)
    chosen = None if tuning is None else next((each for each in field if each.identity.variant == tuning.chosen.variant), None)
    if tuning is None or chosen is None:
        ready = best_way(field[0], Kept(field[0].digest, cache))
        return Advice(ready, field[0], AS_PUBLISHED if ready == field[0] else "as was made ready on this device")
    tuned = as_chosen(chosen, tuning)
    ready = best_way(tuned, Kept(chosen.digest, cache))
    form = "" if ready == tuned else ", in its prepared form"
    idle = next((row.idle for row in tuning.rows if row.candidate == tuning.chosen), None)
    why = f"tuned: {tuning.chosen.describe()}{form}. {tuning.reason}"
    return Advice(ready, chosen, why, None if idle is None else idle.p50_s)


def advise_where(source: Source, cache: Path) -> Advice:
    """How to run it where its user wants it: with what the provider compiled of it, as far as that is kept."""
    ready = compiled_form(source, Kept(source.digest, cache))
    return Advice(source, source, AS_ASKED) if ready is None else Advice(ready, source, f"{AS_ASKED}, and compiled before")


def as_chosen(source: Source, tuning: Tuning) -> Source:
    """This variant, opened in the way that tuning chose; requests are merged where that gains more than running abreast."""
    chosen = tuning.chosen
    side_by_side = usable_cores() // min(chosen.threads or usable_cores(), usable_cores())
    return replace(
        source,
        session_options=chosen.session_options(source.session_options),
        threads=chosen.threads,
        provider=chosen.provider_to_load,
        batch=most_worth(tuning.batch_gains, side_by_side=side_by_side),
        pads=tuning.pads,
    )


def best_way(source: Source, kept: Kept) -> Source:
    """The same model in the best way that is kept: tuned, and in its prepared form."""
    tuned = as_tuned(source, kept)
    return prepared_form(tuned, kept) or tuned


def as_tuned(source: Source, kept: Kept) -> Source:
    """As tuning chose, on no more threads and on no other provider than it says itself; else the publisher's way."""
    known = results.recall(kept.tuned, kept.key(source)) if kept.tuned.is_dir() else None
    if known is None:
        return source
    chosen = as_chosen(source, known)
    return replace(chosen, threads=source.fewest(chosen.threads), provider=source.provider or chosen.provider)


def prepared_form(tuned: Source, kept: Kept) -> Source | None:
    """The same in the form that was made for these options and where it runs, if that is there and whole."""
    if tuned.delegate is not None or not kept.prepared.is_dir():
        return None
    if tuned.provider not in (None, CPU):
        return compiled_form(tuned, kept)
    from runtime.tuning import prepared

    ready = prepared.find(tuned.path, digest=kept.digest, cache=kept.prepared, session_options=tuned.session_options)
    if ready is None:
        return None
    if ready.path == tuned.path:
        return replace(tuned, compiled=ready.compiled)
    return replace(tuned, path=ready.path, session_options=ready.session_options, digest="")  # `digest` was the other file's


def compiled_form(source: Source, kept: Kept) -> Source | None:
    """The same with what its provider compiled of it, if that is there and whole."""
    if source.provider is None or not compiles(source.provider) or not kept.prepared.is_dir():
        return None
    from runtime.tuning import compiled

    entry = compiled.find(source.provider, digest=kept.digest, cache=kept.prepared, session_options=source.session_options)
    return None if entry is None else replace(source, compiled=entry)
