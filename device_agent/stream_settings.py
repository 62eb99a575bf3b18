"""What one `[[stream]]` of the agent's configuration says. Pure, but for the question whether a camera is a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from device_agent.stream_places import Wanted, broker_of, results_of, source_of
from fleet_io.errors import ConfigurationError
from fleet_io.mqtt import Identity
from fleet_protocol.names import Name
from runtime.streaming import Policy


class StreamSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"source": "from", "results": "to"}
):
    """One model on everything that comes from one place. Places are named as `edgeward stream` names them."""

    name: Name
    model: Name
    source: str
    """`dir:PATH`, `camera:NUMBER`, `camera:FILE` or `mqtt:TOPIC`."""
    results: str
    """`file:PATH` or `mqtt:TOPIC`."""
    policy: Policy | None = None
    waiting: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 8
    state: str = ""
    broker: str = "127.0.0.1:1883"
    ca: str = ""
    cert: str = ""
    key: str = ""

    def wanted(self, device: str) -> Wanted:
        """Both ends, and the broker. Raises `ConfigurationError`, which names the stream."""
        try:
            return Wanted(
                source=source_of(self.source),
                results=results_of(self.results),
                broker=broker_of(self.broker),
                client_id=f"edgeward-{device}-{self.name}",
                identity=self._identity(),
                policy=self.policy,
                state=Path(self.state) if self.state else None,
            )
        except ConfigurationError as error:
            raise ConfigurationError(f"The stream {self.name} cannot be: {error}") from error

    def _identity(self) -> Identity | None:
        files = (self.ca, self.cert, self.key)
        if not any(files):
            return None
        if not all(files):
            raise ConfigurationError("TLS needs all of ca, cert and key.")
        return Identity(*map(Path, files))


def check(streams: Sequence[StreamSettings], device: str) -> None:
    """Raises `ConfigurationError` where one cannot be, or two have one name."""
    names = [each.name for each in streams]
    for each in streams:
        each.wanted(device)
        if names.count(each.name) > 1:
            raise ConfigurationError(f"Two streams are called {each.name}. Give each a name of its own.")
