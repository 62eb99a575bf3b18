"""`Transport` over a real broker: paho-mqtt 2, MQTT 5, TLS with a certificate of our own.

The traps of paho that DESIGN.md §3 lists are met here, once for all programs: the network loop runs in our own thread, so
an exception in a callback ends one connection and not the client; TCP_NODELAY is set; reconnects back off with full jitter;
the queue of outgoing messages is short; no callback waits. And one more: unless somebody registers for writes, paho writes to
the socket from whichever thread publishes, while the loop writes too; here only the loop's thread ever touches the socket.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, ParamSpec

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from fleet_io.clock import Chance
from fleet_io.transport import Handler, Message, QoS, Will, unshared

log = logging.getLogger(__name__)

P = ParamSpec("P")

KEEPALIVE_S = 20
"""A broker that says nothing for twice this long, though asked, is taken for gone."""
CONNECT_TIMEOUT_S = 10.0
FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 60.0
REFUSED_BACKOFF_S = 30.0
"""A broker that refused our identity is not asked again soon."""
UNDER_WAY = 200
"""QoS 1 messages without PUBACK, and as many of QoS 0 that wait for the socket."""
IN_FLIGHT = 20
"""Of those of QoS 1, sent and not yet acknowledged: no broker that we know allows fewer."""
LOOP_S = 1.0
STEADY_S = 10.0
"""A connection that lasted so long was a good one; the pauses begin anew after it."""
DISPUTED = 3
"""So many connections in turn that were taken and did not last: somebody else may use our identity."""
FAREWELL_S = 2.0
"""How long a stop waits for what is queued to be sent."""

_REFUSALS: Final = frozenset({0x85, 0x86, 0x87, 0x8A, 0x8C})
"""MQTT 5 reason codes that speak of us: client id, password, not authorized, banned, bad authentication method."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A client's certificate, its key, and the authority that it trusts (PEM files)."""

    authority: Path
    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the broker listens."""

    host: str
    port: int


def backoff(attempt: int, chance: float, *, refused: bool) -> float:
    """Seconds to wait before connect number `attempt` (from 1): full jitter, capped (AWS Architecture Blog, 2015)."""
    if refused:
        return REFUSED_BACKOFF_S * (0.5 + chance)
    return float(min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(attempt - 1, 10)) * chance)


class MqttTransport:
    """One client of one broker, kept connected by a thread from `start` to `stop`."""

    def __init__(
        self,
        broker: Broker,
        identity: Identity | None,
        *,
        client_id: str,
        chance: Chance,
        will: Will | None = None,
        keepalive_s: int = KEEPALIVE_S,
    ) -> None:
        """Without an `identity` the connection is neither encrypted nor ours alone: for brokers that are no fleet's."""
        self._broker = broker
        self._keepalive_s = keepalive_s
        self._chance = chance
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._handlers: dict[str, tuple[Handler, QoS]] = {}
        self._awaited: set[int] = set()
        self._connected_callbacks: list[Callable[[], None]] = []
        self._disconnected_callbacks: list[Callable[[str], None]] = []
        self._reason = ""
        self._refused = False
        self._ready = False
        self._ready_since = 0.0
        self._brief = 0
        self._attempt = 0
        self._unsent: deque[paho.MQTTMessageInfo] = deque()
        self._connection: object = None
        self._fault = ""
        self._thread = threading.Thread(target=self._keep_connected, name=f"mqtt-{client_id}", daemon=True)
        self._identity = identity
        self._tls = None if identity is None else _client_context(identity)
        self._client = self._make_client(client_id, will)

    def subscribe(self, topic_filter: str, handler: Handler, *, qos: QoS) -> None:
        """See `Transport`."""
        with self._lock:
            self._handlers[topic_filter] = (handler, qos)
        self._client.message_callback_add(unshared(topic_filter), self._guarded(handler))
        if self._client.is_connected():
            self._client.subscribe(topic_filter, qos)

    def publish(self, topic: str, payload: bytes, *, qos: QoS, retain: bool = False) -> bool:
        """See `Transport`."""
        if not self._client.is_connected() or (qos == 0 and not self._has_room()):
            return False
        sent = self._client.publish(topic, payload, qos, retain)
        if qos == 0 and sent.rc == paho.MQTT_ERR_SUCCESS:
            self._unsent.append(sent)
        return sent.rc == paho.MQTT_ERR_SUCCESS

    def on_connected(self, callback: Callable[[], None]) -> None:
        """See `Transport`."""
        self._connected_callbacks.append(callback)

    def on_disconnected(self, callback: Callable[[str], None]) -> None:
        """See `Transport`."""
        self._disconnected_callbacks.append(callback)

    def start(self) -> None:
        """See `Transport`."""
        self._thread.start()

    def stop(self) -> None:
        """See `Transport`."""
        self._stopping.set()
        self._client.disconnect()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(CONNECT_TIMEOUT_S + FAREWELL_S)

    def _has_room(self) -> bool:
        """Whether another QoS 0 message may wait for the socket: paho itself sets those no limit."""
        with self._lock:
            while self._unsent and _is_done(self._unsent[0]):
                self._unsent.popleft()
            return len(self._unsent) < UNDER_WAY

    def _make_client(self, client_id: str, will: Will | None) -> paho.Client:
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id, protocol=paho.MQTTv5, reconnect_on_failure=False)
        if self._tls is not None:
            client.tls_set_context(self._tls)
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(IN_FLIGHT)
        client.max_queued_messages_set(UNDER_WAY)
        if will is not None:
            client.will_set(will.topic, will.payload, qos=1, retain=True)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_socket_open = self._on_socket_open
        client.on_socket_register_write = _leave_it_to_the_loop
        client.on_log = self._on_log
        return client

    def _keep_connected(self) -> None:
        while not self._stopping.is_set():
            self._connect_once()
            self._count_attempt()
            for callback in self._disconnected_callbacks:
                _call(callback, self._reason)
            self._stopping.wait(backoff(self._attempt, self._chance(), refused=self._refused))

    def _count_attempt(self) -> None:
        """Two clients of one identity end each other's connections for ever: pauses must grow there too."""
        if not self._ready:
            self._attempt += 1
            return
        self._ready = False
        steady = time.perf_counter() - self._ready_since >= STEADY_S
        self._attempt = 1 if steady else self._brief + 1
        self._brief = 0 if steady else self._brief + 1
        if self._brief >= DISPUTED:
            self._reason += "; it ends again and again: does another device or program use this identity?"

    def _connect_once(self) -> None:
        """Connect and serve one connection until it ends; says why it ended in `_reason`."""
        self._refused = False
        self._reason = self._fault = ""
        try:
            if self._tls is not None and self._identity is not None:
                self._tls.load_cert_chain(self._identity.certificate, self._identity.key)  # it may have been renewed
            self._client.connect(self._broker.host, self._broker.port, self._keepalive_s)
            self._loop_until_it_ends()
        except (OSError, ValueError) as error:
            self._fault = str(error)
        except Exception as error:  # a fault of ours or of paho must end this connection, not the thread
            log.exception("the MQTT loop failed; connecting again")
            self._fault = f"internal error: {error}"
            self._hang_up()
        self._refused = self._refused or _speaks_of_certificates(self._fault)
        self._reason = self._reason or f"{self._broker.host}:{self._broker.port}: {self._fault or 'the connection ended'}"

    def _loop_until_it_ends(self) -> None:
        while not self._stopping.is_set():
            if self._client.loop(LOOP_S) != paho.MQTT_ERR_SUCCESS:
                return
        self._client.disconnect()
        rounds = int(FAREWELL_S / 0.1)
        if all(self._client.loop(0.1) == paho.MQTT_ERR_SUCCESS for _ in range(rounds)):
            self._hang_up()

    def _hang_up(self) -> None:
        """Close the socket without a word; paho notices it in its next loop."""
        if isinstance(self._connection, socket.socket):
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(Exception):
            self._client.loop(0.0)

    def _on_connect(
        self, client: paho.Client, _data: object, _flags: paho.ConnectFlags, code: ReasonCode, _properties: Properties | None
    ) -> None:
        if code.is_failure:
            self._refused = code.value in _REFUSALS
            self._reason = f"the broker refused the connection: {code}"
            return
        with self._lock:
            wanted = [(topic_filter, qos) for topic_filter, (_, qos) in self._handlers.items()]
        self._awaited = set()
        for topic_filter, qos in wanted:
            _, mid = client.subscribe(topic_filter, qos)
            if mid is not None:
                self._awaited.add(mid)
        if not wanted:
            self._announce()

    def _on_subscribe(
        self, _client: paho.Client, _data: object, mid: int, codes: list[ReasonCode], _properties: Properties | None
    ) -> None:
        for code in codes:
            if code.is_failure:
                log.error("the broker refused a subscription: %s", code)
        self._awaited.discard(mid)
        if not self._awaited and not self._ready:
            self._announce()

    def _announce(self) -> None:
        self._ready, self._ready_since = True, time.perf_counter()
        for callback in self._connected_callbacks:
            _call(callback)

    def _on_disconnect(
        self,
        _client: paho.Client,
        _data: object,
        flags: paho.DisconnectFlags,
        code: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            self._reason = f"the broker ended the connection: {code}"

    def _on_socket_open(self, _client: paho.Client, _data: object, connection: object) -> None:
        self._connection = connection
        if isinstance(connection, socket.socket):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _on_log(self, _client: paho.Client, _data: object, level: int, text: str) -> None:
        """Paho says only here why a socket failed; the last fault of a connection is kept."""
        if level == paho.MQTT_LOG_ERR:
            self._fault = text

    @staticmethod
    def _guarded(handler: Handler) -> Callable[[paho.Client, object, paho.MQTTMessage], None]:
        def receive(_client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
            try:
                handler(Message(message.topic, bytes(message.payload), message.retain))
            except Exception:  # one bad message must not cost the connection
                log.exception("a handler failed on a message of %s", message.topic)

        return receive


class _ClosingContext(ssl.SSLContext):
    """Shakes hands while it wraps, so that Python closes the socket when that fails; paho leaves it to the collector."""

    def wrap_socket(self, sock: socket.socket, **options: Any) -> ssl.SSLSocket:  # type: ignore[override]  # noqa: ANN401
        return super().wrap_socket(sock, **(options | {"do_handshake_on_connect": True}))


def _client_context(identity: Identity) -> ssl.SSLContext:
    context = _ClosingContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(identity.authority)
    context.load_cert_chain(identity.certificate, identity.key)
    return context


def _leave_it_to_the_loop(_client: paho.Client, _data: object, _connection: object) -> None:
    """That somebody registers for writes is all that keeps paho from writing in the publisher's thread."""


def _call(callback: Callable[P, None], *values: P.args, **named: P.kwargs) -> None:
    """Call what a program registered with us: its fault is logged and costs neither connection nor thread."""
    try:
        callback(*values, **named)
    except Exception:
        log.exception("a callback of the connection failed")


def _is_done(info: paho.MQTTMessageInfo) -> bool:
    """Written to the socket, or given up with its connection."""
    try:
        return info.is_published()
    except RuntimeError:  # paho's way to say that it was lost
        return True


def _speaks_of_certificates(fault: str) -> bool:
    """Whether TLS failed because one side does not trust the other, which trying again soon cannot change."""
    return "SSL" in fault and any(word in fault for word in ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED"))
