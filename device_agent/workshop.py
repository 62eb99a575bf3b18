"""Prepares and tunes what passed the gate, under `prepared/` in the state directory: advice, never a condition.

All of it may be deleted at any time; then models load as they are, as they do when anything here fails. How a model is
prepared, tuned and loaded so is `runtime.tuning.readiness`'s.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from device_agent.content import ContentStore
from fleet_io import durable
from runtime import Model
from runtime.sources import Contender, Source
from runtime.tuning import readiness
from runtime.tuning.readiness import Effort, Kept

log = logging.getLogger(__name__)

DIRECTORY: Final = "prepared"


class Workshop:
    """`prepared/` under the state directory. One piece of work at a time; files are named by their digest."""

    def __init__(self, directory: Path, store: ContentStore, effort: Effort) -> None:
        self._cache = directory / DIRECTORY
        self._store = store
        self._effort = effort
        durable.remove_leftovers(self._cache / "tuned")
        for unfinished in (self._cache / "prepared").glob(durable.TEMPORARY_PREFIX + "*"):
            shutil.rmtree(unfinished, ignore_errors=True)

    def prepare(self, contender: Contender, digest: str, *, threads: int | None) -> str:
        """What came of it, for people. Raises `AgentError`, `RuntimeFailure` or `OSError`; nothing is worse for it."""
        if self._effort.prepare:
            self._store.check_room(readiness.ROOM * contender.source.path.stat().st_size)
        return readiness.make_ready(contender, self._kept(digest), self._effort, threads=threads)

    def load(self, source: Source, digest: str, *, threads: int | None) -> tuple[Model, str]:
        """The model in the best way that is known, and the fault of the prepared way. Raises `ModelRejected`."""
        model, fault = readiness.load_ready(source, self._kept(digest), threads=threads)
        if fault:
            log.warning("%s %s: %s; it is loaded as it is", source.identity.model, source.identity.version, fault)
        return model, fault

    def forget(self, source: Source, digest: str) -> None:
        """Keep nothing of how that file is best run."""
        readiness.forget(source, self._kept(digest))

    def keep_only(self, models: Iterable[tuple[Source, str]]) -> None:
        """Remove the prepared forms of everything else."""
        readiness.keep_only(self._cache, [(source, self._kept(digest)) for source, digest in models])

    def _kept(self, digest: str) -> Kept:
        return Kept(digest, self._cache)
