"""The bounded line in which items wait for the model: the one place where a stream holds back or drops."""

from __future__ import annotations

import threading
from collections import deque
from typing import Final, Literal

from runtime.streaming.places import Item

Policy = Literal["block", "latest"]
"""When the line is full: the source waits (what cannot wait is dropped as it comes), or the oldest goes for the new one."""

_PATIENCE_S: Final = 0.2
"""How often a waiting source looks whether it shall stop."""


class Line:
    """At most `size` items wait. Any thread may put and take."""

    def __init__(self, size: int, policy: Policy) -> None:
        self._size = size
        self._policy = policy
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._ended = False

    def put(self, item: Item, stop: threading.Event, *, wait: bool = True) -> tuple[bool, Item | None]:
        """Whether the item is in the line, and which one was dropped for it (`latest`).

        With `block` it waits for room until `stop`, where it may `wait`.
        """
        with self._changed:
            while self._policy == "block" and len(self._items) >= self._size:
                if not wait or stop.is_set():
                    return False, None
                self._changed.wait(_PATIENCE_S)
            dropped = self._items.popleft() if len(self._items) >= self._size else None
            self._items.append(item)
            self._changed.notify_all()
            return True, dropped

    def take(self, patience_s: float) -> Item | None:
        """The oldest item; None where none came within `patience_s`, or none will come."""
        with self._changed:
            if not self._items and not self._ended:
                self._changed.wait(patience_s)
            if not self._items:
                return None
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def end(self) -> None:
        """No more items come."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def is_over(self) -> bool:
        """Whether no item waits and none will come."""
        with self._changed:
            return self._ended and not self._items

    def __len__(self) -> int:
        return len(self._items)
