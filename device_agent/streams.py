"""The agent's streams: each a thread that runs a model on what comes, through swaps, rollbacks and ends that go away.

A stream asks the same host as applications do. One whose source or destination is gone is opened again, after pauses that
double; nothing that happens to it reaches the agent. How it goes stands in `streams.json`, for people.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from device_agent.stream_places import opened
from device_agent.stream_settings import StreamSettings
from fleet_io import durable
from fleet_io.errors import AlreadyOwned
from runtime import ModelHost
from runtime.errors import StreamBroken
from runtime.streaming import Counts, Stream

log = logging.getLogger(__name__)

FILE: Final = "streams.json"
LOOK_S: Final = 5.0
"""`streams.json` is at most so old."""
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0
_FAREWELL_S: Final = 10.0

State = Literal["running", "waiting", "broken", "ended"]
"""`waiting`: no version of its model answers yet. `ended`: its source has no more, as a video file has."""


class StreamStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How one stream goes. `counts` are since the agent started; `reason` says what broke it last."""

    name: str
    model: str
    source: str
    results: str
    state: State
    reason: str = ""
    counts: Counts = Counts()


class Streams:
    """All of an agent's streams, from `start` to `stop`."""

    def __init__(
        self,
        settings: Sequence[StreamSettings],
        host: ModelHost,
        *,
        device: str,
        directory: Path,
        look_s: float = LOOK_S,
        first_pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        """`directory`: the state directory. Raises `fleet_io.errors.ConfigurationError`."""
        self._ending = threading.Event()
        self._kept = [_KeptStream(each, host, device, self._ending, first_pause_s) for each in settings]
        self._directory, self._look_s = directory, look_s
        self._written: tuple[StreamStatus, ...] | None = None
        self._threads = [threading.Thread(target=self._look, name="streams", daemon=True)]
        self._threads += [threading.Thread(target=each.run, name=f"stream-{each.name}", daemon=True) for each in self._kept]

    def start(self) -> None:
        """Begin, and return at once."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End every stream after the item that is under way."""
        self._ending.set()
        for each in self._kept:
            each.stop()
        for thread in self._threads:
            thread.join(_FAREWELL_S)

    def statuses(self) -> tuple[StreamStatus, ...]:
        """How each goes now."""
        return tuple(each.status() for each in self._kept)

    def _look(self) -> None:
        self._write()
        while not self._ending.wait(self._look_s):
            self._write()
        self._write()

    def _write(self) -> None:
        now = self.statuses()
        if now == self._written:
            return
        try:
            durable.write_bytes(self._directory / FILE, msgspec.json.encode(now))
            self._written = now
        except OSError as error:  # a full disk, perhaps: the streams say for themselves what it does to them
            log.debug("%s cannot be written: %s", FILE, error)


def read(directory: Path) -> tuple[StreamStatus, ...]:
    """What was last written in that state directory; nothing where nothing readable was."""
    try:
        return msgspec.json.decode((directory / FILE).read_bytes(), type=tuple[StreamStatus, ...])
    except (OSError, msgspec.MsgspecError):
        return ()


class _KeptStream:
    """One stream, opened again whenever one of its ends is gone."""

    def __init__(
        self, settings: StreamSettings, host: ModelHost, device: str, ending: threading.Event, first_pause_s: float
    ) -> None:
        self.name = settings.name
        self._settings, self._host, self._ending = settings, host, ending
        self._wanted = settings.wanted(device)
        self._first_pause_s = first_pause_s
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._stream: Stream | None = None
        self._before = Counts()
        """Of the streams before this one."""
        self._ended, self._reason = False, ""

    def run(self) -> None:
        """Until the source has no more, or the agent ends."""
        pause = self._first_pause_s
        while not self._ending.is_set():
            try:
                self._once()
            except (StreamBroken, AlreadyOwned) as error:
                log.warning("stream %s: %s", self.name, error)
                reason = str(error)
            except Exception as error:  # a fault of ours must not end the stream for good
                log.exception("stream %s failed", self.name)
                reason = f"internal error: {error!r}"
            else:
                self._close("")
                self._ended = not self._ending.is_set()
                return
            pause = self._first_pause_s if self._close(reason) else min(2 * pause, LONGEST_PAUSE_S)
            self._ending.wait(pause)

    def stop(self) -> None:
        """End what runs; `run` does not begin again, since the agent ends."""
        with self._lock:
            self._stop.set()

    def status(self) -> StreamStatus:
        """How it goes now."""
        each = self._settings
        with self._lock:
            counts = _sum(self._before, self._stream.counts()) if self._stream else self._before
            state, reason = self._state(), self._reason
        return StreamStatus(
            name=each.name,
            model=each.model,
            source=each.source,
            results=each.results,
            state=state,
            reason=reason,
            counts=counts,
        )

    def _state(self) -> State:
        if self._ended:
            return "ended"
        if self._stream is None and self._reason:
            return "broken"
        return "running" if self._host.is_active(self._settings.model) else "waiting"

    def _once(self) -> None:
        """Raises `StreamBroken` or `AlreadyOwned`."""
        with self._lock:
            stop = self._stop = threading.Event()
            if self._ending.is_set():
                return
        each, wanted = self._settings, self._wanted
        with opened(wanted, stop, self._tell) as (source, results):
            stream = Stream(self._host, each.model, source, results, policy=wanted.chosen_policy(), waiting=each.waiting)
            with self._lock:
                self._stream = stream
            log.info("stream %s runs %s on %s", each.name, each.model, each.source)
            stream.run(stop)

    def _close(self, reason: str) -> bool:
        """Count what the last stream did; whether it did anything."""
        with self._lock:
            stream, self._stream, self._reason = self._stream, None, reason
            counts = stream.counts() if stream else Counts()
            self._before = _sum(self._before, msgspec.structs.replace(counts, left=0))
        return counts.answered + counts.failed > 0

    def _tell(self, said: str) -> None:
        log.warning("stream %s: %s", self.name, said)


def _sum(one: Counts, other: Counts) -> Counts:
    return Counts(**{field: getattr(one, field) + getattr(other, field) for field in Counts.__struct_fields__})
