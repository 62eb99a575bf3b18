"""The agent's settings, read once into one frozen dataclass: TOML file, then `EDGEWARD_AGENT_*`, then flags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import msgspec

from device_agent import stream_settings
from device_agent.guards import Rules
from device_agent.stream_settings import StreamSettings
from fleet_io import config
from fleet_io.errors import ConfigurationError
from fleet_protocol.limits import MIB
from fleet_protocol.names import Name
from runtime.tuning.readiness import Effort

ENVIRONMENT_PREFIX: Final = "EDGEWARD_AGENT"

Positive = Annotated[float, msgspec.Meta(gt=0.0)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentConfig:
    """How one agent works. Times are seconds, sizes bytes."""

    device: Name
    state_dir: str
    server: str = ""
    """`https://host:port` of the registry; needed to enrol only."""
    claim: str = ""
    """The claim token that the operator gave to this device; needed to enrol only."""
    address: str = "127.0.0.1"
    """Where applications ask for predictions: an address, or `unix:PATH` for a socket. See `token_file`."""
    port: Port = 0
    """0: any free port; the agent prints which."""
    grpc_address: Annotated[str, msgspec.Meta(pattern="^(|unix:.+|.+:[0-9]{1,5})$")] = ""
    """Where applications ask over gRPC: `HOST:PORT`, or `unix:PATH`; empty: nowhere. Needs `edgeward[grpc]`."""
    token_file: str = ""
    """File with a token that applications must show; empty: anyone who can reach the address may ask."""
    threads: Annotated[int, msgspec.Meta(ge=0, le=256)] = 0
    """Threads of the engine; 0: the engine's own choice."""
    telemetry_interval_s: Positive = 30.0
    probation_s: Positive = 30.0
    probation_inferences: Annotated[int, msgspec.Meta(ge=1)] = 20
    errors_allowed: Count = 0
    hang_s: Positive = 30.0
    """An inference that takes longer hangs: it counts as failed, and where it holds up the server, the agent ends."""
    restarts_allowed: Count = 3
    first_retry_s: Positive = 2.0
    longest_retry_s: Positive = 300.0
    gate_timeout_s: Positive = 60.0
    gate_memory_bytes: Annotated[int, msgspec.Meta(ge=64 * MIB)] = 2048 * MIB
    prepare: bool = True
    """Whether the prepared form of a model is made before it is activated: it loads sooner and takes less memory."""
    prepare_from_bytes: Count = 1 * MIB
    """Smaller models are loaded as they are."""
    prepare_s: Positive = 300.0
    """Longer than this a model is not prepared for, nor compiled for another execution provider: it is loaded as it is."""
    tune_s: Annotated[float, msgspec.Meta(ge=0.0, le=3600.0)] = 5.0
    """Seconds of measuring how a model runs best here, before it is activated; 0: not at all."""
    tune_providers: bool = True
    """Whether it may be found best on a GPU or another execution provider that works here, not on the CPU alone."""
    disk_reserve_bytes: Count = 64 * MIB
    """Room on the disk that a download leaves free."""
    outbox_bytes: Annotated[int, msgspec.Meta(ge=64 * 1024)] = 8 * MIB
    """Reports that wait for a connection may take this much; then old ones are merged."""
    transfer_stall_s: Positive = 30.0
    """A transfer that gets nothing for this long is given up, and tried again later."""
    stream: tuple[StreamSettings, ...] = ()
    """What models run on by themselves; `[[stream]]` in the TOML file."""

    def rules(self) -> Rules:
        """The numbers of the machine."""
        return Rules(
            probation_s=self.probation_s,
            probation_inferences=self.probation_inferences,
            errors_allowed=self.errors_allowed,
            restarts_allowed=self.restarts_allowed,
            first_retry_s=self.first_retry_s,
            longest_retry_s=self.longest_retry_s,
            prepares=self.prepare or self.tune_s > 0,
        )

    def effort(self) -> Effort:
        """What preparing one model may take."""
        return Effort(
            tune_s=self.tune_s,
            prepare=self.prepare,
            smallest_bytes=self.prepare_from_bytes,
            timeout_s=self.prepare_s,
            providers=self.tune_providers,
        )

    def token(self) -> str | None:
        """What applications must show; None: nothing. Raises `fleet_io.errors.ConfigurationError`."""
        if not self.token_file:
            return None
        try:
            token = Path(self.token_file).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"token_file {self.token_file} cannot be read: {error}.") from error
        if not token or not token.isprintable():
            raise ConfigurationError(f"token_file {self.token_file} holds no token of printable ASCII.")
        return token

    @property
    def directory(self) -> Path:
        """The state directory."""
        return Path(self.state_dir)


def load(*, file: Path | None, environ: Mapping[str, str], flags: Mapping[str, object | None]) -> AgentConfig:
    """Raises `fleet_io.errors.ConfigurationError`, which names the key."""
    loaded = config.load(AgentConfig, file=file, prefix=ENVIRONMENT_PREFIX, environ=environ, flags=flags)
    stream_settings.check(loaded.stream, loaded.device)
    return loaded
