"""A chunk worker: answers devices that pull blobs and TUF metadata over MQTT (DESIGN.md §3).

The device's name comes from the request's topic and from nowhere else, and so does the topic of the answer. A resource is a
checked digest or a checked metadata name; neither is ever used as a path. One thread serves; when more waits than it can do
soon, or more bytes were asked for than the broker should carry, a device is told when to come back.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from fleet_io.clock import Clock
from fleet_io.transport import Message, Transport
from fleet_protocol import limits, topics
from fleet_protocol.digests import chunk_count
from fleet_protocol.errors import InvalidTopic, ProtocolError
from fleet_protocol.transfer import Answer, AnswerStatus, GetRequest, decode_request, encode_answer
from model_registry.blobs import BlobStore
from model_registry.errors import NotFound
from model_registry.pacing import TokenBucket

log = logging.getLogger(__name__)

SHARE: Final = "workers"
_BLOB: Final = "blob/"
_METADATA: Final = "metadata/"


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """How much one worker takes on. Rates in bytes a second; `waiting` counts requests."""

    waiting: int = 256
    bytes_per_s: float = 64 * limits.MIB
    burst_bytes: float = 64 * limits.MIB
    busy_retry_ms: int = 1000


@dataclass(slots=True)
class Served:
    """What a worker did since it was made."""

    chunks: int = 0
    bytes: int = 0
    dropped: int = 0
    put_off: int = 0


@dataclass(frozen=True, slots=True)
class _Asked:
    device: str
    request: GetRequest


@dataclass(slots=True)
class ChunkWorker:
    """Serves from `attach` and `start` to `stop`. `metadata` gives a metadata file or raises `NotFound`."""

    name: str
    blobs: BlobStore
    metadata: Callable[[str], bytes]
    transport: Transport
    clock: Clock
    limits: WorkerLimits = field(default_factory=WorkerLimits)
    served: Served = field(default_factory=Served)
    _inbox: queue.Queue[_Asked | None] = field(init=False)
    _bucket: TokenBucket = field(init=False)
    _thread: threading.Thread | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._inbox = queue.Queue(self.limits.waiting)
        self._bucket = TokenBucket(self.limits.bytes_per_s, self.limits.burst_bytes)

    def attach(self) -> None:
        """Listen for requests to any worker and to this one."""
        self.transport.subscribe(topics.shared(SHARE, topics.every_device("get")), self.receive, qos=1)
        self.transport.subscribe(topics.worker_inbox(self.name), self.receive, qos=1)

    def start(self) -> None:
        """Begin to serve, in a thread of its own."""
        self._thread = threading.Thread(target=self._run, name=f"worker-{self.name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Serve what waits, then end the thread."""
        if self._thread is not None:
            self._inbox.put(None)
            self._thread.join()
            self._thread = None

    def receive(self, message: Message) -> None:
        """Take a request from the transport's thread: queue it, put it off when too much waits, drop it when it is none."""
        try:
            asked = _Asked(self._device_of(message.topic), decode_request(message.payload))
        except ProtocolError as error:
            self.served.dropped += 1
            log.warning("dropped a chunk request on %s: %s", message.topic, error)
            return
        try:
            self._inbox.put_nowait(asked)
        except queue.Full:
            self._put_off(asked, asked.request.chunks[0], self.limits.busy_retry_ms)

    def serve_waiting(self) -> None:
        """Serve every request that waits now (the thread does it by itself)."""
        while True:
            try:
                asked = self._inbox.get_nowait()
            except queue.Empty:
                return
            if asked is not None:
                self._serve_safely(asked)

    def _run(self) -> None:
        while (asked := self._inbox.get()) is not None:
            self._serve_safely(asked)

    def _serve_safely(self, asked: _Asked) -> None:
        try:
            self._serve(asked)
        except Exception:  # one request that cannot be served must not end the worker
            log.exception("a chunk request of %s for %s failed", asked.device, asked.request.resource)
            self._put_off(asked, asked.request.chunks[0], self.limits.busy_retry_ms)

    def _serve(self, asked: _Asked) -> None:
        """Answer chunk by chunk, until all are sent, one cannot be, or the transport takes no more."""
        for index in asked.request.chunks:
            try:
                chunk, size = self._read(asked.request, index)
            except NotFound:
                self._answer(asked, AnswerStatus.NOT_FOUND, index)
                return
            if index >= max(1, chunk_count(size, asked.request.chunk_size)):
                self._answer(asked, AnswerStatus.REFUSED, index, size=size)
                continue
            wait = self._bucket.take(len(chunk), self.clock.monotonic())
            if wait > 0:
                self._put_off(asked, index, max(1, round(wait * 1000)))
                return
            if not self._answer(asked, AnswerStatus.CHUNK, index, size=size, chunk=chunk):
                return
            self.served.chunks += 1
            self.served.bytes += len(chunk)

    def _read(self, request: GetRequest, index: int) -> tuple[bytes, int]:
        """The chunk and the size of the whole resource. Raises `NotFound`."""
        if request.resource.startswith(_BLOB):
            return self.blobs.read_chunk(request.resource.removeprefix(_BLOB), index, request.chunk_size)
        content = self.metadata(request.resource.removeprefix(_METADATA))
        start = index * request.chunk_size
        return content[start : start + request.chunk_size], len(content)

    def _put_off(self, asked: _Asked, index: int, retry_after_ms: int) -> None:
        self.served.put_off += 1
        self._answer(asked, AnswerStatus.RETRY_LATER, index, retry_after_ms=retry_after_ms)

    def _answer(
        self, asked: _Asked, status: AnswerStatus, index: int, *, size: int = 0, chunk: bytes = b"", retry_after_ms: int = 0
    ) -> bool:
        answer = Answer(
            status=status,
            request=asked.request.request,
            index=index,
            size=size,
            retry_after_ms=retry_after_ms,
            worker=self.name,
            chunk=chunk,
        )
        return self.transport.publish(topics.device(asked.device, "rx"), encode_answer(answer), qos=0)

    def _device_of(self, topic: str) -> str:
        """The device that asks, by the topic that the broker let it write. Raises `InvalidTopic`."""
        if topic.startswith(topics.worker_inbox(self.name).removesuffix("+")):
            return topics.parse_worker(topic)[1]
        device, channel = topics.parse_device(topic)
        if channel != "get":
            raise InvalidTopic(f"{topic!r} is not a topic of requests")
        return device
