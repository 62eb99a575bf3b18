"""Opening the central side's databases: SQLite with the settings that make it safe beside others, the rest as SQLAlchemy does.

On SQLite a commit is on the disk when it returns, readers and one writer do not wait for each other, and a transaction that
will write takes the lock when it begins: two writers queue instead of failing half-way. A connection with the execution option
`reading` takes no lock. Whoever opens names its own error and creates its own tables.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.pool import ConnectionPoolEntry

BUSY_S: Final = 30
"""So long one writer waits for another."""


def make_engine(url: str) -> Engine:
    """An engine for `url`; nothing is opened yet."""
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # transactions begin where SQLAlchemy says so, not where sqlite3 guesses
    for setting in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={BUSY_S * 1000}"):
        connection.execute(f"PRAGMA {setting}")


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get("reading") else "BEGIN IMMEDIATE")
