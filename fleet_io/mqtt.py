"""`Transport` over a real broker: paho-mqtt 2, MQTT 5, TLS with a certificate of our own.

The traps of paho that DESIGN.md §3 lists are met here, once for all programs: the network loop runs in our own thread, so
an exception in a callback ends one connection and not the client; TCP_NODELAY is set; reconnects back off with full jitter;
the queue of outgoing messages is short; no callback waits.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from fleet_io.clock import Chance
from fleet_io.transport import Handler, Message, QoS, Will, unshared

log = logging.getLogger(__name__)

KEEPALIVE_S = 20
CONNECT_TIMEOUT_S = 10.0
FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 60.0
REFUSED_BACKOFF_S = 30.0
"""A broker that refused our identity is not asked again soon."""
UNDER_WAY = 200
"""QoS 1 messages without PUBACK, and messages waiting for the socket."""


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

    def __init__(self, broker: Broker, identity: Identity, *, client_id: str, chance: Chance, will: Will | None = None) -> None:
        self._broker = broker
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
        self._attempt = 0
        self._thread = threading.Thread(target=self._keep_connected, name=f"mqtt-{client_id}", daemon=True)
        self._client = self._make_client(client_id, identity, will)

    def subscribe(self, topic_filter: str, handler: Handler, *, qos: QoS) -> None:
        """See `Transport`."""
        with self._lock:
            self._handlers[topic_filter] = (handler, qos)
        self._client.message_callback_add(unshared(topic_filter), self._guarded(handler))
        if self._client.is_connected():
            self._client.subscribe(topic_filter, qos)

    def publish(self, topic: str, payload: bytes, *, qos: QoS, retain: bool = False) -> bool:
        """See `Transport`."""
        if not self._client.is_connected():
            return False
        return self._client.publish(topic, payload, qos, retain).rc == paho.MQTT_ERR_SUCCESS

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
            self._thread.join(CONNECT_TIMEOUT_S)

    def _make_client(self, client_id: str, identity: Identity, will: Will | None) -> paho.Client:
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id, protocol=paho.MQTTv5, reconnect_on_failure=False)
        context = ssl.create_default_context(cafile=str(identity.authority))
        context.load_cert_chain(identity.certificate, identity.key)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        client.tls_set_context(context)
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(UNDER_WAY)
        client.max_queued_messages_set(UNDER_WAY)
        if will is not None:
            client.will_set(will.topic, will.payload, qos=1, retain=True)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_socket_open = _set_nodelay
        return client

    def _keep_connected(self) -> None:
        while not self._stopping.is_set():
            self._connect_once()
            self._ready = False
            for callback in self._disconnected_callbacks:
                callback(self._reason)
            self._attempt += 1
            self._stopping.wait(backoff(self._attempt, self._chance(), refused=self._refused))

    def _connect_once(self) -> None:
        """Connect and serve one connection until it ends; says why it ended in `_reason`."""
        self._refused = False
        self._reason = f"the connection to {self._broker.host}:{self._broker.port} ended"
        try:
            self._client.connect(self._broker.host, self._broker.port, KEEPALIVE_S)
            self._client.loop_forever(retry_first_connection=False)
        except (OSError, ValueError) as error:
            self._reason = f"{self._broker.host}:{self._broker.port}: {error}"
        except Exception as error:  # a fault of ours or of paho must end this connection, not the thread
            log.exception("the MQTT loop failed; connecting again")
            self._reason = f"internal error: {error}"
            with contextlib.suppress(OSError):
                self._client.disconnect()

    def _on_connect(
        self, client: paho.Client, _data: object, _flags: paho.ConnectFlags, code: ReasonCode, _properties: Properties | None
    ) -> None:
        if code.is_failure:
            self._refused = True
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
        self, _client: paho.Client, _data: object, mid: int, _codes: list[ReasonCode], _properties: Properties | None
    ) -> None:
        self._awaited.discard(mid)
        if not self._awaited and not self._ready:
            self._announce()

    def _announce(self) -> None:
        self._ready = True
        self._attempt = 0
        for callback in self._connected_callbacks:
            callback()

    @staticmethod
    def _guarded(handler: Handler) -> Callable[[paho.Client, object, paho.MQTTMessage], None]:
        def receive(_client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
            try:
                handler(Message(message.topic, bytes(message.payload), message.retain))
            except Exception:  # one bad message must not cost the connection
                log.exception("a handler failed on a message of %s", message.topic)

        return receive


def _set_nodelay(_client: paho.Client, _data: object, connection: object) -> None:
    raw = getattr(connection, "_sock", connection)
    if isinstance(raw, socket.socket):
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
