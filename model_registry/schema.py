"""The tables of the registry's database, and how it is opened: SQLite now, PostgreSQL by URL later.

Only portable column types and statements are used; `fleet_io.sql` says how SQLite is made to behave.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Engine,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
)
from sqlalchemy.exc import DatabaseError

from fleet_io.sql import make_engine
from model_registry.errors import Damaged

tables: Final = MetaData()

metadata = Table(
    "metadata",
    tables,
    Column("file", String, primary_key=True),
    Column("content", LargeBinary, nullable=False),
    comment="TUF metadata by file name; numbered files never change.",
)

releases = Table(
    "releases",
    tables,
    Column("model", String, primary_key=True),
    Column("version", String, primary_key=True),
    Column("manifest", String, nullable=False, index=True),
    Column("size", Integer, nullable=False, comment="bytes of all files"),
    Column("published", Float, nullable=False),
    Column("summary", String, nullable=False, comment="JSON for people: variants and their accuracy"),
)

devices = Table(
    "devices",
    tables,
    Column("name", String, primary_key=True),
    Column("enrolled", Float, nullable=False),
    Column("public_key", String, nullable=False, comment="SHA-256 hex of its key"),
    Column("claim", Integer, nullable=False, comment="the claim that let it in last"),
    Column("online", Boolean, nullable=False, default=False),
    Column("session", String, nullable=False, default=""),
    Column("seen", Float),
    Column("reported", LargeBinary, comment="the newest ReportedState, as it came"),
)

claims = Table(
    "claims",
    tables,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("secret", String, nullable=False, unique=True, comment="SHA-256 hex; the secret itself is not kept"),
    Column("device", String, comment="the only device that may use it; none: any"),
    Column("uses_left", Integer, nullable=False),
    Column("replace", Boolean, nullable=False),
    Column("created", Float, nullable=False),
    Column("expires", Float, nullable=False),
)

certificates = Table(
    "certificates",
    tables,
    Column("serial", String, primary_key=True),
    Column("device", String, nullable=False, index=True),
    Column("public_key", String, nullable=False),
    Column("issued", Float, nullable=False),
    Column("expires", Float, nullable=False),
)

rollouts = Table(
    "rollouts",
    tables,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("model", String, nullable=False),
    Column("version", String, nullable=False),
    Column("manifest", String, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("cohort", String, nullable=False),
    Column("steps", String, nullable=False, comment="JSON list of fractions"),
    Column("step", Integer, nullable=False),
    Column("max_failures", Integer, nullable=False),
    Column("state", String, nullable=False, index=True),
    Column("reason", String, nullable=False, default=""),
    Column("created", Float, nullable=False),
    Column("updated", Float, nullable=False),
)

exposures = Table(
    "exposures",
    tables,
    Column("rollout", Integer, primary_key=True),
    Column("device", String, primary_key=True),
    Column("version", String, comment="what it goes back to; none: nothing"),
    Column("manifest", String),
    Column("attempt", Integer),
    comment="Devices that a rollout has reached, and the release that each ran before.",
)

assignments = Table(
    "assignments",
    tables,
    Column("device", String, primary_key=True),
    Column("model", String, primary_key=True),
    Column("version", String, nullable=False),
    Column("manifest", String, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("rollout", Integer, nullable=False, comment="the rollout that decided it"),
)

desired = Table(
    "desired",
    tables,
    Column("device", String, primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    Column("expires", Float, nullable=False, index=True),
    Column("envelope", LargeBinary, nullable=False),
)

changed_devices = Table(
    "changed_devices",
    tables,
    Column("device", String, primary_key=True),
    comment="Devices whose assignments changed since they were told last.",
)

audit = Table(
    "audit",
    tables,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("actor", String, nullable=False),
    Column("action", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("detail", String, nullable=False, default=""),
)

Index("rollouts_by_model", rollouts.c.model, rollouts.c.id)


def open_database(url: str) -> Engine:
    """Connect, and create what is missing. Raises `Damaged` when the database cannot be read."""
    engine = make_engine(url)
    try:
        with engine.begin() as connection:
            tables.create_all(connection)
    except DatabaseError as error:
        engine.dispose()
        raise Damaged(f"The registry's database {url} cannot be used: {error.orig}.", "Restore it from its copy.") from error
    return engine
