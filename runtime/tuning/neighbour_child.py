"""A busy neighbour: `python -m runtime.tuning.neighbour_child` burns one core when it is told to, until it is told otherwise.

`runtime.tuning.measurement` runs one beside the model, to see how much the model loses when the device has other work.
"""

from __future__ import annotations

import threading
from typing import Final

import msgspec


class Burn(msgspec.Struct, frozen=True):
    """Burn, or rest."""

    on: bool


class Burning(msgspec.Struct, frozen=True):
    """It does as it was told."""


_told: Final = threading.Event()


def burn(order: Burn) -> Burning:
    """Begin to burn, or to rest, and say so."""
    if order.on:
        _told.set()
    else:
        _told.clear()
    return Burning()


def _burn() -> None:
    while True:
        _told.wait()
        while _told.is_set():
            pass


if __name__ == "__main__":
    from runtime.children import serve

    threading.Thread(target=_burn, daemon=True).start()
    serve(Burn, burn)
