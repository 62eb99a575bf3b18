"""What a stream reads from and writes to, as two narrow interfaces, and what passes through them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

from runtime.engine import Array

Content = bytes | Array | Path
"""Of an item: JSON or encoded content, a decoded picture, or a file of either."""


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to run the model on. `name` says where it came from, and stands in its result."""

    name: str
    content: Content
    is_json: bool = False
    """Whether bytes can be nothing but JSON; else `runtime.inputs.from_message` tells."""


class Answered(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One result: a line of JSON. It has `results` (or `outputs`, where no processing is declared), or an `error`.

    `time` is when the model was asked, in seconds since the epoch; `seconds` how long it took with all preparation.
    """

    item: str
    time: float
    model: str
    version: str = ""
    seconds: float = 0.0
    results: list[Any] | None = None
    outputs: Mapping[str, Any] | None = None
    error: str = ""


class Source(Protocol):
    """Where items come from."""

    can_wait: bool
    """Whether nothing is lost when `give` waits; else it never does."""

    def read(self, give: Callable[[Item], bool], stop: threading.Event) -> None:
        """Give every item until there are no more, `give` says no, or `stop` is set. Raises `StreamBroken`.

        `give` may wait, which is how a stream holds back who can be held back.
        """
        ...

    def settle(self, item: Item) -> None:
        """That item is over: its result was written, or it was dropped. It need not come again."""
        ...


class Results(Protocol):
    """Where results go."""

    def write(self, answered: Answered) -> bool:
        """Take one result; it is as safe as the place can make it when this returns. Raises `StreamBroken`.

        False: it was dropped, since the place takes nothing now and the stream does not wait.
        """
        ...

    def close(self) -> None:
        """No more results come."""
        ...
