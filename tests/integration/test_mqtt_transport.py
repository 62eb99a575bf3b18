"""`MqttTransport` against a real Mosquitto over TLS, and against servers that break the rules."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fleet_io.clock import system_chance
from fleet_io.mqtt import UNDER_WAY, Broker, Identity, MqttTransport
from fleet_io.transport import Message, Will
from fleet_protocol import limits, topics
from model_registry.authority import CENTRAL_NAME
from tests.support.certificates import TestAuthority
from tests.support.mqtt import TestBroker, running_broker, start_and_wait
from tests.support.waiting import until


@pytest.fixture(scope="module")
def shared_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestBroker]:
    with running_broker(tmp_path_factory.mktemp("mqtt")) as broker:
        yield broker


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[TestBroker]:
    with running_broker(tmp_path) as broker:
        yield broker


def test_a_message_arrives_as_it_was_sent(shared_broker: TestBroker) -> None:
    got: list[Message] = []
    central = shared_broker.client(CENTRAL_NAME)
    central.subscribe(topics.every_device("telemetry"), got.append, qos=1)
    start_and_wait(central)
    device = shared_broker.connected("plain")
    payload = bytes(range(256)) * 400
    assert device.publish(topics.device("plain", "telemetry"), payload, qos=1)
    until(lambda: got, "the message arrives")
    assert got == [Message(topics.device("plain", "telemetry"), payload, retained=False)]
    central.stop()


def test_a_retained_message_reaches_whoever_comes_later_and_says_that_it_was_kept(shared_broker: TestBroker) -> None:
    central = shared_broker.connected(CENTRAL_NAME)
    desired = topics.device("late", "desired")
    central.publish(desired, b"wanted", qos=1, retain=True)
    got: list[Message] = []
    device = shared_broker.client("late")
    device.subscribe(desired, got.append, qos=1)
    start_and_wait(device)
    until(lambda: got, "the retained message arrives")
    assert got == [Message(desired, b"wanted", retained=True)]
    central.stop()


def test_a_shared_subscription_gives_each_message_to_one_member(own_broker: TestBroker) -> None:
    got: dict[str, list[bytes]] = {"one.edgeward": [], "two.edgeward": []}
    own_broker.trust(*got)
    for name, payloads in got.items():
        worker = own_broker.client(name)
        worker.subscribe(topics.shared("ingest", topics.every_device("telemetry")), _keep_in(payloads), qos=1)
        start_and_wait(worker)
    device = own_broker.connected("speaker")
    sent = [b"%d" % number for number in range(50)]
    for payload in sent:
        assert device.publish(topics.device("speaker", "telemetry"), payload, qos=1)
    until(lambda: sum(map(len, got.values())) >= len(sent), "all messages arrive")
    assert sorted(payload for payloads in got.values() for payload in payloads) == sorted(sent)
    assert all(got.values()), "each member gets its part"


def _keep_in(payloads: list[bytes]) -> Callable[[Message], None]:
    return lambda message: payloads.append(message.payload)


def test_a_client_comes_back_by_itself_after_the_broker_was_killed_and_restarted(own_broker: TestBroker) -> None:
    got: list[Message] = []
    reasons: list[str] = []
    device = own_broker.client("steady")
    device.subscribe(topics.device("steady", "ack"), got.append, qos=1)
    device.on_disconnected(reasons.append)
    start_and_wait(device)
    own_broker.process.kill()
    until(lambda: reasons, "the lost connection is noticed")
    assert not device.publish(topics.device("steady", "telemetry"), b"x", qos=1), "what cannot be sent is not kept"
    comebacks: list[bool] = []
    device.on_connected(lambda: comebacks.append(True))
    own_broker.process.start()
    until(lambda: comebacks, "the client is connected again", timeout_s=40)
    central = own_broker.connected(CENTRAL_NAME)
    central.publish(topics.device("steady", "ack"), b"after", qos=1)
    until(lambda: got, "its subscription is there again")
    assert got[0].payload == b"after"


def test_a_certificate_that_was_replaced_meanwhile_is_shown_at_the_next_connect(own_broker: TestBroker, tmp_path: Path) -> None:
    old, new = own_broker.authority.device("old"), own_broker.authority.device("new")
    mine = Identity(old.authority, tmp_path / "mine.pem", tmp_path / "mine.key")
    shutil.copy(old.certificate, mine.certificate), shutil.copy(old.key, mine.key)
    device = MqttTransport(own_broker.address, mine, client_id="mine", chance=lambda: 0.05)
    start_and_wait(device)
    shutil.copy(new.certificate, mine.certificate), shutil.copy(new.key, mine.key)
    comebacks: list[bool] = []
    device.on_connected(lambda: comebacks.append(True))
    own_broker.process.kill()
    own_broker.process.start()
    until(lambda: comebacks, "the client is connected again", timeout_s=40)
    got: list[Message] = []
    central = own_broker.client(CENTRAL_NAME)
    central.subscribe(topics.every_device("status"), got.append, qos=1)
    start_and_wait(central)
    device.publish(topics.device("new", "status"), b"here", qos=1)
    until(lambda: got, "it may speak as the new one")
    device.stop()
    central.stop()


def test_two_clients_of_one_identity_say_what_it_may_be(own_broker: TestBroker) -> None:
    """A disk image that was copied, or a device that was replaced and goes on: each connection ends the other's."""
    reasons: list[str] = []
    with contextlib.ExitStack() as started:
        for _ in range(2):
            twin = MqttTransport(own_broker.address, own_broker.authority.device("twin"), client_id="twin", chance=lambda: 0.05)
            twin.on_disconnected(reasons.append)
            twin.start()
            started.callback(twin.stop)
        until(lambda: any("does another device" in reason for reason in reasons), "one says so", timeout_s=60)


def test_a_handler_or_callback_that_raises_does_not_end_the_connection(
    shared_broker: TestBroker, caplog: pytest.LogCaptureFixture
) -> None:
    got: list[bytes] = []
    reasons: list[str] = []

    def handle(message: Message) -> None:
        got.append(message.payload)
        raise LookupError("this handler is broken")

    def greet() -> None:
        raise LookupError("this greeting is broken")

    device = shared_broker.client("clumsy")
    device.subscribe(topics.device("clumsy", "ack"), handle, qos=1)
    device.on_connected(greet)
    device.on_disconnected(reasons.append)
    with caplog.at_level(logging.CRITICAL):
        start_and_wait(device)
        central = shared_broker.connected(CENTRAL_NAME)
        for payload in (b"1", b"2"):
            central.publish(topics.device("clumsy", "ack"), payload, qos=1)
        until(lambda: len(got) == 2, "the second message arrives too")
    assert reasons == []
    central.stop()


def test_a_disconnect_callback_that_raises_does_not_end_the_thread(own_broker: TestBroker) -> None:
    def mourn(_reason: str) -> None:
        raise LookupError("this farewell is broken")

    device = own_broker.client("mourner")
    device.on_disconnected(mourn)
    start_and_wait(device)
    comebacks: list[bool] = []
    device.on_connected(lambda: comebacks.append(True))
    own_broker.process.kill()
    own_broker.process.start()
    until(lambda: comebacks, "the client is connected again", timeout_s=40)


def test_a_certificate_of_another_authority_is_refused_and_the_reason_says_so(
    shared_broker: TestBroker, tmp_path: Path
) -> None:
    foreign = TestAuthority(tmp_path).device("stranger")
    known = shared_broker.authority.device("stranger")
    reasons: list[str] = []
    identity = type(known)(known.authority, foreign.certificate, foreign.key)
    device = shared_broker.client("stranger", identity=identity)
    connects: list[bool] = []
    device.on_connected(lambda: connects.append(True))
    device.on_disconnected(reasons.append)
    device.start()
    until(lambda: reasons, "the broker refuses")
    device.stop()
    assert not connects
    assert "SSL" in reasons[0]


def test_a_broker_of_another_authority_is_not_trusted(shared_broker: TestBroker, tmp_path: Path) -> None:
    device = shared_broker.client("careful", identity=TestAuthority(tmp_path).device("careful"))
    reasons: list[str] = []
    device.on_disconnected(reasons.append)
    device.start()
    until(lambda: reasons, "the client refuses")
    device.stop()
    assert "CERTIFICATE_VERIFY_FAILED" in reasons[0]


def test_a_device_with_anothers_name_gets_its_own_topics_only(shared_broker: TestBroker) -> None:
    """The client id is a claim; the certificate is what counts."""
    got: list[bytes] = []
    liar = shared_broker.client("victim", identity=shared_broker.authority.device("liar"))
    liar.subscribe(topics.device("victim", "ack"), lambda message: got.append(b"stolen"), qos=1)
    liar.subscribe(topics.device("liar", "ack"), lambda message: got.append(message.payload), qos=1)
    start_and_wait(liar)
    central = shared_broker.connected(CENTRAL_NAME)
    central.publish(topics.device("victim", "ack"), b"secret", qos=1)
    central.publish(topics.device("liar", "ack"), b"own", qos=1)
    until(lambda: got, "its own message arrives")
    assert got == [b"own"]
    central.stop()


def test_a_will_is_sent_when_a_client_vanishes_and_not_when_it_stops(own_broker: TestBroker) -> None:
    got: list[bytes] = []
    central = own_broker.client(CENTRAL_NAME)
    central.subscribe(topics.every_device("status"), lambda message: got.append(message.payload), qos=1)
    start_and_wait(central)
    for name, cut in (("polite", False), ("vanished", True)):
        device = own_broker.client(name, will=Will(topics.device(name, "status"), name.encode()))
        start_and_wait(device)
        if cut:
            device._hang_up()
        device.stop()
    until(lambda: got, "the will arrives")
    assert got == [b"vanished"]


@pytest.mark.parametrize("started", [False, True])
def test_stop_ends_the_thread(shared_broker: TestBroker, started: bool) -> None:
    device = shared_broker.client("brief")
    if started:
        start_and_wait(device)
    device.stop()
    device.stop()
    assert not any(thread.name == "mqtt-brief" for thread in threading.enumerate())


def test_stop_ends_the_thread_at_any_moment_of_a_connect(shared_broker: TestBroker) -> None:
    for delay in range(6):
        device = shared_broker.client(f"hasty-{delay}")
        device.start()
        threading.Event().wait(delay / 100)
        device.stop()
        assert not any(thread.name == f"mqtt-hasty-{delay}" for thread in threading.enumerate())


def test_stop_sends_what_was_queued_before(shared_broker: TestBroker) -> None:
    got: list[bytes] = []
    central = shared_broker.client(CENTRAL_NAME)
    central.subscribe(topics.every_device("reported"), lambda message: got.append(message.payload), qos=1)
    start_and_wait(central)
    device = shared_broker.connected("last-words")
    assert device.publish(topics.device("last-words", "reported"), b"bye", qos=1)
    device.stop()
    until(lambda: got == [b"bye"], "the last words arrive")
    central.stop()


def test_stop_in_a_handler_does_not_wait_for_itself(shared_broker: TestBroker) -> None:
    stopped = threading.Event()
    device = shared_broker.client("own-end")

    def end() -> None:
        device.stop()
        stopped.set()

    device.on_connected(end)
    device.start()
    assert stopped.wait(10)
    until(lambda: not any(t.name == "mqtt-own-end" for t in threading.enumerate()), "the thread ends")


def test_a_broker_that_freezes_is_noticed_and_found_again_when_it_thaws(own_broker: TestBroker) -> None:
    device = MqttTransport(
        own_broker.address,
        own_broker.authority.device("watchful"),
        client_id="watchful",
        chance=lambda: 0.1,
        keepalive_s=1,
    )
    reasons: list[str] = []
    comebacks: list[bool] = []
    device.on_disconnected(reasons.append)
    pid = own_broker.process.pid
    assert pid is not None
    try:
        start_and_wait(device)
        os.kill(pid, signal.SIGSTOP)
        until(lambda: reasons, "the silence is noticed")
        device.on_connected(lambda: comebacks.append(True))
        os.kill(pid, signal.SIGCONT)
        until(lambda: comebacks, "the client is connected again")
    finally:
        os.kill(pid, signal.SIGCONT)
        device.stop()


def test_many_publishers_at_once_do_not_mix_their_bytes(own_broker: TestBroker) -> None:
    """Paho would write from each publishing thread while its loop writes too: packets would interleave on the socket."""
    sizes: list[int] = []
    central = own_broker.client(CENTRAL_NAME)
    central.subscribe(topics.every_device("telemetry"), lambda message: sizes.append(len(message.payload)), qos=1)
    start_and_wait(central)
    device = own_broker.connected("crowd")
    lost: list[str] = []
    device.on_disconnected(lost.append)

    def publish(size: int) -> None:
        for _ in range(20):
            until(lambda: device.publish(topics.device("crowd", "telemetry"), bytes(size), qos=1), "there is room")

    threads = [threading.Thread(target=publish, args=(size,)) for size in (10, 1000, 50_000, limits.CHUNK_BYTES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: len(sizes) >= 80, "all messages arrive")
    assert lost == []
    assert {size: sizes.count(size) for size in set(sizes)} == {10: 20, 1000: 20, 50_000: 20, limits.CHUNK_BYTES: 20}


class RudeServer:
    """Accepts one TLS connection after another and answers each with the same bytes, then waits."""

    def __init__(self, authority: TestAuthority, answer: bytes) -> None:
        identity = authority.server()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(identity.certificate, identity.key)
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._accepted: list[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError):  # the client left
                connection = self._context.wrap_socket(raw, server_side=True)
                self._accepted.append(connection)
                connection.recv(1000)
                connection.sendall(self._answer)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for connection in self._accepted:
            connection.close()


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (b"\x20\x03\x00\x87\x00", "Not authorized"),
        (b"\x20\x03\x00\x88\x00", "Server unavailable"),
        (b"\x20\x03\x00\x00\x00\xe0\x02\x8e\x00", "taken over"),
        (b"\x20\x03\x00\x00\x00\x90\x00", "127.0.0.1"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n" + b" " * 100, "127.0.0.1"),
        (b"\x20\xff\xff\xff\xff\xff", "127.0.0.1"),
    ],
    ids=["not authorized", "unavailable", "taken over", "an empty SUBACK", "another protocol", "an endless length"],
)
def test_whatever_a_server_answers_ends_the_connection_with_a_reason_and_not_the_client(
    tmp_path: Path, answer: bytes, word: str, caplog: pytest.LogCaptureFixture
) -> None:
    authority = TestAuthority(tmp_path)
    server = RudeServer(authority, answer)
    device = MqttTransport(
        Broker("127.0.0.1", server.port), authority.device("patient"), client_id="patient", chance=lambda: 0.5
    )
    reasons: list[str] = []
    device.on_disconnected(reasons.append)
    try:
        device.start()
        until(lambda: reasons, "the connection ends")
        assert device._thread.is_alive()
    finally:
        device.stop()
        server.close()
    assert word in reasons[0]


def test_a_slow_broker_makes_publish_say_no_instead_of_growing(tmp_path: Path) -> None:
    """A server that greets and then reads nothing: the queue of QoS 0 messages is as short as that of QoS 1."""
    authority = TestAuthority(tmp_path)
    server = RudeServer(authority, b"\x20\x03\x00\x00\x00")
    device = MqttTransport(Broker("127.0.0.1", server.port), authority.device("full"), client_id="full", chance=system_chance())
    try:
        start_and_wait(device)
        payload = bytes(limits.CHUNK_BYTES)
        taken = sum(device.publish("ew/1/d/full/rx", payload, qos=0) for _ in range(5 * UNDER_WAY))
        assert UNDER_WAY <= taken < 4 * UNDER_WAY
        assert not device.publish("ew/1/d/full/rx", payload, qos=0)
    finally:
        server.close()
        device.stop()
