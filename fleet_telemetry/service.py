"""The telemetry of one central process, put together: database, ingest, API. The program that runs it gives the clock."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Engine
from starlette.routing import BaseRoute

from fleet_io.clock import Clock
from fleet_io.transport import Transport
from fleet_telemetry.api import Api
from fleet_telemetry.ingest import Ingest
from fleet_telemetry.reading import Reader
from fleet_telemetry.schema import open_database
from fleet_telemetry.storage import Retention, Storage


class Telemetry:
    """Call `prepare`, then `routes`, `attach` and `start` in any order, and `stop` at the end.

    `database` is a file (SQLite), or a URL that SQLAlchemy knows.
    """

    def __init__(self, database: Path | str, *, clock: Clock, retention: Retention | None = None) -> None:
        self._database = database
        self._clock = clock
        self._retention = retention or Retention()
        self._engine: Engine | None = None
        self._ingest: Ingest | None = None

    def prepare(self) -> None:
        """Open the database. Raises `StoreUnavailable`."""
        self._engine = open_database(self._database)
        self._ingest = Ingest(Storage(self._engine, self._retention), clock=self._clock)

    def routes(self) -> list[BaseRoute]:
        """The API and `/metrics`, without authentication: whoever serves them puts it in front."""
        engine, ingest = self._prepared()
        return Api(Reader(engine), clock=self._clock, waiting=lambda: (len(ingest.inbox), ingest.inbox.dropped)).routes()

    def attach(self, transport: Transport) -> None:
        """Take reports from this transport and send acknowledgements over it."""
        self._prepared()[1].attach(transport)

    def start(self) -> None:
        """Begin to store what arrives."""
        self._prepared()[1].start()

    def stop(self) -> None:
        """End ingest and close the database."""
        engine, ingest = self._prepared()
        ingest.stop()
        engine.dispose()

    def _prepared(self) -> tuple[Engine, Ingest]:
        assert self._engine is not None, "prepare() comes first"
        assert self._ingest is not None, "prepare() comes first"
        return self._engine, self._ingest
