"""The tables of telemetry's database, and how it is opened: SQLite now, PostgreSQL by URL later.

Only portable column types and statements are used; `fleet_io.sql` says how SQLite is made to behave.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Engine,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)
from sqlalchemy.exc import DatabaseError

from fleet_io.sql import make_engine
from fleet_telemetry.errors import StoreUnavailable

WHOLE_LIFE: Final = 0
"""The `hour` of the row that adds up all hours of a release; it is never deleted, so Prometheus counters never fall."""

tables: Final = MetaData()
_RowId: Final = BigInteger().with_variant(Integer, "sqlite")

frames = Table(
    "frames",
    tables,
    Column("device", String, primary_key=True),
    Column("boot", String, primary_key=True),
    Column("sequence", BigInteger, primary_key=True),
    Column("received", Float, nullable=False, index=True),
    comment="What was counted: a frame that comes again is acknowledged and not counted.",
)

releases = Table(
    "releases",
    tables,
    Column("id", _RowId, primary_key=True, autoincrement=True),
    Column("model", String, nullable=False),
    Column("version", String, nullable=False),
    Column("manifest", String, nullable=False),
    Column("variant", String, nullable=False),
    UniqueConstraint("model", "version", "manifest", "variant"),
)

fleet_usage = Table(
    "fleet_usage",
    tables,
    Column("release", ForeignKey("releases.id"), primary_key=True),
    Column("hour", BigInteger, primary_key=True, comment="epoch seconds of its start; 0: its whole life"),
    Column("tally", LargeBinary, nullable=False),
)

device_usage = Table(
    "device_usage",
    tables,
    Column("device", String, primary_key=True),
    Column("release", ForeignKey("releases.id"), primary_key=True),
    Column("updated", Float, nullable=False, index=True),
    Column("tally", LargeBinary, nullable=False),
)

events = Table(
    "events",
    tables,
    Column("id", _RowId, primary_key=True, autoincrement=True),
    Column("device", String, nullable=False, index=True),
    Column("at", Float, nullable=False, comment="by the device's clock, as far as it is believed"),
    Column("received", Float, nullable=False, index=True),
    Column("kind", String, nullable=False),
    Column("model", String, nullable=False, index=True),
    Column("version", String),
    Column("manifest", String),
    Column("detail", String, nullable=False),
)

rejections = Table(
    "rejections",
    tables,
    Column("device", String, primary_key=True),
    Column("count", BigInteger, nullable=False),
    Column("last", Float, nullable=False),
    Column("reason", String, nullable=False, comment="of the last one"),
)

counters = Table(
    "counters",
    tables,
    Column("name", String, primary_key=True),
    Column("value", BigInteger, nullable=False),
    comment="Frames by what became of them, since the database was made.",
)


def open_database(database: Path | str) -> Engine:
    """Connect to a file (SQLite) or a URL, and create what is missing. Raises `StoreUnavailable`."""
    engine = make_engine(f"sqlite:///{database}" if isinstance(database, Path) else database)
    try:
        with engine.begin() as connection:
            tables.create_all(connection)
    except DatabaseError as error:
        engine.dispose()
        raise StoreUnavailable(
            f"Telemetry's database {database} cannot be used: {error.orig}.",
            "Make room on its disk, or move the file away; a new one is made then.",
        ) from error
    return engine
