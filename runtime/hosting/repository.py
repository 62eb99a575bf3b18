"""Models that a client of the local server may switch on and off: the protocol's repository extension.

On a device the agent decides what runs, and there is no such repository. A program that serves models by hand
(`edgeward serve --manage`) names them here; a client can choose among these and bring no other.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import NamedTuple

from runtime.errors import NotServing
from runtime.hosting.host import ModelHost
from runtime.hosting.pool import ModelPool
from runtime.sources import Source


class Entry(NamedTuple):
    """One model of the repository."""

    name: str
    version: str
    ready: bool


class Repository:
    """Loads the models of `sources` into `host` by name; a pool has its own way of loading, so `threads` is a host's.

    Every method may be called from any thread.
    """

    def __init__(self, host: ModelHost | ModelPool, sources: Iterable[Source], *, threads: int | None = None) -> None:
        self._host = host
        self._sources = {source.identity.model: source for source in sources}
        self._threads = threads
        self._changing = threading.Lock()

    def load(self, name: str) -> None:
        """Let the model answer; one that does is loaded anew.

        Raises `NotServing` (it is not of ours), `ModelRejected`, or what `ModelPool.fetch` raises.
        """
        source = self._source(name)
        with self._changing:
            if isinstance(self._host, ModelPool):
                self._host.reload(source)
            else:
                self._host.activate(source.identity, source.load(threads=self._threads), source.labels)

    def unload(self, name: str) -> None:
        """Let it answer no more. Raises `NotServing` when it is not of ours."""
        self._source(name)
        with self._changing:
            if isinstance(self._host, ModelPool):
                self._host.withdraw(name)
            else:
                self._host.deactivate(name)

    def index(self) -> list[Entry]:
        """All models, ordered by name."""
        active = {identity.model: identity.version for identity in self._host.identities()}
        return [
            Entry(name, source.identity.version, ready=active.get(name) == source.identity.version)
            for name, source in sorted(self._sources.items())
        ]

    def _source(self, name: str) -> Source:
        source = self._sources.get(name)
        if source is None:
            there = ", ".join(sorted(self._sources)) or "none"
            raise NotServing(f"The repository has no model {name!r}. It has: {there}.")
        return source
