"""How a model is to be opened, as it goes through a pipe to a child process, which opens it just so.

May not live here: what else a child is told; that stands with each child.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Self

import msgspec

from runtime.engine import Engine, open_engine

if TYPE_CHECKING:  # what children need not import
    from runtime.sources import Source


class ToOpen(msgspec.Struct, frozen=True, kw_only=True):
    """A `Source` without what only its parent needs; `threads` bounds those of one run."""

    model: str
    session_options: dict[str, str]
    threads: int | None
    provider: str | None
    delegate: str | None
    compiled: str | None

    @classmethod
    def of(cls, source: Source, path: Path, *, threads: int | None) -> Self:
        """The source, which lies at `path` for the child; `threads`: the most that the caller allows."""
        return cls(
            model=str(path),
            session_options=dict(source.session_options),
            threads=source.fewest(threads),
            provider=source.provider,
            delegate=None if source.delegate is None else str(source.delegate),
            compiled=None if source.compiled is None else str(source.compiled.absolute()),
        )

    def open(self) -> Engine:
        """Raises `ModelRejected`."""
        return open_engine(
            Path(self.model),
            session_options=self.session_options,
            threads=self.threads,
            provider=self.provider,
            delegate=None if self.delegate is None else Path(self.delegate),
            compiled=None if self.compiled is None else Path(self.compiled),
        )
