"""Which files each model may run from: the slots active, staged and previous, as small pointer files written durably.

A slot names a manifest, a variant and its file by digest; the files themselves lie in `content.py`. What no slot and no
target names is deleted.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, get_args

from device_agent.model_state import ModelState
from fleet_io import durable
from fleet_protocol import codec
from fleet_protocol.errors import InvalidName, ProtocolError
from fleet_protocol.names import check_name
from fleet_protocol.states import Running

log = logging.getLogger(__name__)

Slot = Literal["active", "staged", "previous"]
SLOTS: Final[tuple[Slot, ...]] = get_args(Slot)
_LIMIT: Final = 4096


class Slots:
    """`models/<model>/<slot>.json` under the state directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = durable.make_directory(directory)

    def read(self, model: str, slot: Slot) -> Running | None:
        """What the slot names; None when it is empty or damaged."""
        path = self._path(model, slot)
        try:
            return codec.decode(path.read_bytes(), Running, limit=_LIMIT, what=f"slot {slot} of {model}")
        except FileNotFoundError:
            return None
        except ProtocolError as error:
            log.warning("%s; it counts as empty", error)
            return None

    def write(self, model: str, slot: Slot, content: Running | None) -> None:
        """Make the slot name `content`, or nothing. Raises `OSError`."""
        path = self._path(model, slot)
        if content is None:
            if path.exists():
                path.unlink()
                durable.sync_directory(path.parent)
            return
        durable.make_directory(path.parent)
        durable.write_bytes(path, codec.encode(content))

    def clear(self, model: str) -> None:
        """Empty all slots of a model."""
        for slot in SLOTS:
            self.write(model, slot, None)

    def models(self) -> tuple[str, ...]:
        """Every model that has a directory here."""
        return tuple(sorted(path.name for path in self._directory.iterdir() if path.is_dir() and _is_name(path.name)))

    def named(self) -> Iterator[Running]:
        """Everything that any slot names."""
        return (running for _, running in self.named_by_model())

    def named_by_model(self) -> Iterator[tuple[str, Running]]:
        """The same, each with its model."""
        for model in self.models():
            for slot in SLOTS:
                content = self.read(model, slot)
                if content is not None:
                    yield model, content

    def states(self) -> tuple[ModelState, ...]:
        """What a lost journal is rebuilt from: each active slot runs, and nothing is under way."""
        return tuple(
            ModelState(model=model, running=self.read(model, "active"), previous=self.read(model, "previous"))
            for model in self.models()
        )

    def _path(self, model: str, slot: Slot) -> Path:
        return self._directory / check_name(model, "model name") / f"{slot}.json"


def _is_name(value: str) -> bool:
    try:
        check_name(value)
    except InvalidName:
        return False
    return True
