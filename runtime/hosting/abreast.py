"""Runs abreast that do not fight for cores: one that begins alone takes all threads, one that begins in a crowd takes one.

    model = abreast(runtime.load(path), lambda: open_engine(path, session_options={}, threads=1), cores=usable_cores())

Threads of several runs wait for each other on the same cores: two runs on two cores do a quarter more when each keeps to a core
of its own. An engine's threads are fixed when it is opened, so there is a second one of a single thread, opened by the first
run that finds a crowd, off that run's way: a model that is asked by one at a time never has it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from fleet_protocol.tensors import TensorSpec
from runtime.engine import Array, Engine
from runtime.errors import RuntimeFailure
from runtime.model import Model

log = logging.getLogger(__name__)


def abreast(model: Model, open_narrow: Callable[[], Engine], *, cores: int) -> Model:
    """The same model, whose runs share `cores`. `open_narrow` opens it on one thread, and may raise `RuntimeFailure`.

    It takes `model` over: close the one that is given back.
    """
    return model.through(lambda engine: AbreastEngine(engine, open_narrow, cores=cores))


class AbreastEngine:
    """An engine of many threads, and beside it one of one thread for runs in a crowd; see `Engine`."""

    def __init__(self, wide: Engine, open_narrow: Callable[[], Engine], *, cores: int) -> None:
        self._wide = wide
        self._narrow: Engine | None = None
        self._open_narrow: Callable[[], Engine] | None = open_narrow
        """None once that was begun, or is not wanted any more."""
        self._changing = threading.Lock()
        self._closed = False
        self._cores = cores
        self._under_way: list[None] = []
        """One for each run; appended to and taken from in one step, which needs no lock."""
        self._crowded = False
        """Whether the last run began in a crowd: the next one does too, even where it has just begun to gather again."""
        self.inputs: Final[tuple[TensorSpec, ...]] = wide.inputs
        self.outputs: Final[tuple[TensorSpec, ...]] = wide.outputs
        self.description: Final = wide.description
        self.choice: Final = wide.choice

    def run(self, inputs: dict[str, Array]) -> list[Array]:
        """See `Engine`."""
        under_way = self._under_way
        under_way.append(None)
        try:
            before, self._crowded = self._crowded, 2 * len(under_way) > self._cores  # its share of the cores is less than two
            return (self._in_a_crowd() if before or self._crowded else self._wide).run(inputs)
        finally:
            under_way.pop()

    def close(self) -> None:
        """See `Engine`."""
        with self._changing:
            self._closed = True
            narrow, self._narrow, self._open_narrow = self._narrow, None, None
        self._wide.close()
        if narrow is not None:
            narrow.close()

    def _in_a_crowd(self) -> Engine:
        """What runs there, as long as there is no other: the wide one."""
        if self._open_narrow is not None:
            with self._changing:
                opens, self._open_narrow = self._open_narrow, None
            if opens is not None:
                threading.Thread(target=self._bring_in, args=(opens,), name="abreast", daemon=True).start()
        return self._narrow or self._wide

    def _bring_in(self, opens: Callable[[], Engine]) -> None:
        try:
            narrow = opens()
        except RuntimeFailure as error:
            log.warning("runs that are under way together share their threads: %s", error)
            return
        with self._changing:
            if not self._closed:
                self._narrow = narrow
                return
        narrow.close()
