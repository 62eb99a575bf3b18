"""The operator's way to the central side: HTTPS with the fleet's own authority and a bearer token.

`edgeward up` writes `operator.json` (URL, authority, token; readable by its owner only) into its data directory; every command
that speaks to the central side reads it from there.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import httpx
import msgspec

from edgeward.errors import ServerRefused, ServerUnreachable
from fleet_io import durable

OPERATOR_FILE: Final = "operator.json"
DEFAULT_DATA: Final = Path(".edgeward")
TIMEOUT_S: Final = 30.0

F = TypeVar("F", bound=Callable[..., object])


class OperatorProfile(msgspec.Struct, frozen=True):
    """Where the central side is and how to be let in."""

    url: str
    authority: str
    token: str
    for_devices: str = ""
    """The URL by which devices reach it, where that is another one."""


@dataclass(frozen=True, slots=True)
class Connection:
    """A central side that we may speak to."""

    profile: OperatorProfile
    client: httpx.Client

    def request(self, method: str, path: str, *, json: object = None, content: bytes | None = None) -> Any:  # noqa: ANN401
        """Send a request and return the answer's JSON.

        Raises `ServerUnreachable` or `ServerRefused`.
        """
        try:
            answer = self.client.request(method, path, json=json, content=content)
        except httpx.TransportError as error:
            of_time = any(words in str(error) for words in ("certificate has expired", "certificate is not yet valid"))
            hint = "Is the clock right, here and there?" if of_time else "Start it with `edgeward up`."
            raise ServerUnreachable(f"The central side at {self.profile.url} does not answer ({error}). {hint}") from error
        return _read(answer)

    def close(self) -> None:
        """End the connection."""
        self.client.close()


def data_option(command: F) -> F:
    """`--data-dir`: the directory of `edgeward up`, where the operator's token is."""
    return click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        default=DEFAULT_DATA,
        envvar="EDGEWARD_DATA",
        show_default=True,
        show_envvar=True,
        help="Data directory of `edgeward up`.",
    )(command)


def write_profile(data: Path, profile: OperatorProfile) -> None:
    """Leave the profile where commands look for it."""
    durable.write_bytes(data / OPERATOR_FILE, msgspec.json.format(msgspec.json.encode(profile), indent=2) + b"\n", mode=0o600)


def connect(data: Path) -> Connection:
    """Speak to the central side whose data directory this is. Raises `ServerUnreachable` when there is none."""
    profile = read_profile(data)
    try:
        return Connection(profile, _client(profile))
    except (ssl.SSLError, ValueError, httpx.InvalidURL) as error:
        raise _unreadable(data / OPERATOR_FILE, error) from error


def read_profile(data: Path) -> OperatorProfile:
    """What `edgeward up` left in its data directory. Raises `ServerUnreachable` when there is nothing of the kind."""
    path = data / OPERATOR_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=OperatorProfile)
    except FileNotFoundError as error:
        raise ServerUnreachable(
            f"{data} is not the data directory of a central side: it has no {OPERATOR_FILE}. "
            "Start one with `edgeward up`, or name its directory with --data-dir."
        ) from error
    except (OSError, msgspec.DecodeError) as error:
        raise _unreadable(path, error) from error


def _client(profile: OperatorProfile) -> httpx.Client:
    return httpx.Client(
        base_url=profile.url,
        verify=ssl.create_default_context(cadata=profile.authority),
        headers={"authorization": f"Bearer {profile.token}"},
        timeout=TIMEOUT_S,
        trust_env=False,
    )


def _unreadable(path: Path, error: Exception) -> ServerUnreachable:
    return ServerUnreachable(f"{path} cannot be read: {error}. Start `edgeward up` again; it writes the file anew.")


def _read(answer: httpx.Response) -> Any:  # noqa: ANN401
    if answer.is_success:
        try:
            return answer.json() if answer.content else {}
        except ValueError as error:
            raise ServerRefused(f"{answer.url} answered something else than JSON; is it an Edgeward server?") from error
    try:
        said = answer.json()["error"]
        refusal = ServerRefused(said["message"], code=said["code"], status=answer.status_code, hint=said.get("hint", ""))
    except (ValueError, KeyError, TypeError):
        refusal = ServerRefused(f"The central side answered {answer.status_code}.", status=answer.status_code)
    raise refusal
