"""A busy neighbour: `python -m runtime.neighbour_child` burns one core from its first order until its parent closes it."""

from __future__ import annotations

import threading

import msgspec


class Burn(msgspec.Struct, frozen=True):
    """Begin."""


class Burning(msgspec.Struct, frozen=True):
    """It began."""


def burn(_: Burn) -> Burning:
    """Start to burn, and say so."""
    threading.Thread(target=_burn, daemon=True).start()
    return Burning()


def _burn() -> None:
    while True:
        pass


if __name__ == "__main__":
    from runtime.children import serve

    serve(Burn, burn)
