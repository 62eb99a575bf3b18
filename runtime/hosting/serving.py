"""What the servers need of whatever holds the models: `ModelHost`, where all are loaded, or `ModelPool`, where some are.

Every method may be called from any thread. All but `fetch` and `describe` are quick: an event loop may call them.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from runtime.hosting.entrance import Place
from runtime.hosting.room import ModelIdentity, Observer, Served


class Standing(NamedTuple):
    """How a model of a pool stands, for people and metrics. `memory_bytes` is 0 while it is not loaded."""

    identity: ModelIdentity
    memory_bytes: int
    loads: int
    evictions: int


class Serving(Protocol):
    """Models that answer by name."""

    def at_hand(self, model_name: str) -> bool:
        """Whether `place` and `describe` need not wait for a load. Of a model that is not here, there is none to wait for."""
        ...

    def fetch(self, model_name: str, *, deadline: float | None = None) -> None:
        """Load a model that is not at hand; may take long. Raises `RuntimeFailure`."""
        ...

    def place(
        self,
        model_name: str,
        *,
        version: str | None = None,
        deadline: float | None = None,
        priority: int = 0,
    ) -> Place:
        """See `ModelHost.place`."""
        ...

    def describe(self, model_name: str, *, version: str | None = None) -> Served:
        """What answers under that name; loads it where that is needed. Raises `RuntimeFailure`."""
        ...

    def identities(self) -> tuple[ModelIdentity, ...]:
        """Everything that answers when asked, ordered by model name."""
        ...

    def active(self) -> tuple[Served, ...]:
        """Everything that is loaded, ordered by model name."""
        ...

    def standings(self) -> tuple[Standing, ...]:
        """What the models of a pool take, ordered by model name; nothing where there is no pool."""
        ...

    def observe(self, model_name: str, observer: Observer | None) -> None:
        """Tell `observer` that model's answers from now on; None: nobody."""
        ...

    def observer(self, model_name: str) -> Observer | None:
        """Who is told that model's answers."""
        ...
