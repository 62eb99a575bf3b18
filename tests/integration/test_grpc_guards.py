"""The local server's gRPC side against those who ask badly: tokens, limits, broken messages, slow and half-closed sockets."""

from __future__ import annotations

import contextlib
import re
import socket
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest

from runtime import ModelHost, ModelIdentity
from runtime.errors import CannotListen, ProtocolUnavailable
from runtime.local_server import grpc_app, grpc_server
from runtime.local_server.exchange import HELD_BODIES
from runtime.local_server.grpc_messages import message_class
from runtime.local_server.server import LocalServer
from tests.support import http2
from tests.support.engines import ScriptedEngine, fixed, model_of
from tests.support.waiting import until

INFER = "/inference.GRPCInferenceService/ModelInfer"
LIVE = "/inference.GRPCInferenceService/ServerLive"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
Request = message_class("inference.ModelInferRequest")
Answer = message_class("inference.ModelInferResponse")
GOOD = np.zeros((2, 2), np.float32)


def host_of(*row: float) -> ModelHost:
    host = ModelHost()
    host.activate(ModelIdentity("digits", "1.0.0", "sha256:" + "0" * 64, "float"), model_of(fixed(*row)))
    return host


def question(**changes: Any) -> Any:
    """A good request of one raw tensor, but for the changes of its input."""
    request = Request(model_name="digits", raw_input_contents=[GOOD.tobytes()])
    request.inputs.add(**{"name": "x", "datatype": "FP32", "shape": [2, 2]} | changes)
    return request


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    server = LocalServer(host_of(1, 0, 0), grpc="127.0.0.1:0", body_bytes=1_000_000)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def channel(server: LocalServer) -> Iterator[Any]:
    with grpc.insecure_channel(str(server.grpc_address)) as channel:
        yield channel


@pytest.fixture
def bare(server: LocalServer) -> Iterator[socket.socket]:
    host, port = str(server.grpc_address).split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(http2.opening())
        yield connection


def ask(channel: Any, request: Any = None, *, path: str = INFER, metadata: Any = ()) -> Any:
    body = question() if request is None else request
    content = body if isinstance(body, bytes) else body.SerializeToString()
    answer, call = channel.unary_unary(path).with_call(content, timeout=10, metadata=metadata)
    return Answer.FromString(answer), call


def works(channel: Any) -> bool:
    return len(ask(channel)[0].raw_output_contents) == 1


def refusal(channel: Any, request: Any = None, **options: Any) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as refused:
        ask(channel, request, **options)
    return refused.value


def test_with_a_token_only_health_is_answered_to_everybody() -> None:
    server = LocalServer(host_of(1, 0, 0), grpc="127.0.0.1:0", token="a secret")
    server.start()
    try:
        with grpc.insecure_channel(str(server.grpc_address)) as channel:
            assert channel.unary_unary(LIVE)(b"", timeout=10) == b"\x08\x01"
            for wrong in ((), (("authorization", "Bearer wrong"),), (("authorization", "a secret"),), (("token", "a secret"),)):
                assert refusal(channel, metadata=wrong).code() == grpc.StatusCode.UNAUTHENTICATED
                with pytest.raises(grpc.RpcError) as refused:
                    list(channel.stream_stream(INFER.replace("ModelInfer", "ModelStreamInfer"))(iter([b""]), metadata=wrong))
                assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
            assert ask(channel, metadata=(("authorization", "Bearer a secret"),))[0].model_version == "1.0.0"
    finally:
        server.stop()


def test_a_trace_is_repeated_on_answers_and_refusals(channel: Any) -> None:
    _, call = ask(channel, metadata=(("traceparent", TRACE),))
    assert ("traceparent", TRACE) in call.trailing_metadata()
    refused = refusal(channel, question(datatype="FP64"), metadata=(("traceparent", TRACE),))
    assert ("traceparent", TRACE) in refused.trailing_metadata()
    assert not ask(channel, metadata=(("traceparent", "1"),))[1].trailing_metadata()


def bad(**changes: Any) -> Any:
    return lambda: question(**changes)


def doubled() -> Any:
    request = question()
    request.inputs.add().CopyFrom(request.inputs[0])
    request.raw_input_contents.append(GOOD.tobytes())
    return request


def more_raw() -> Any:
    request = question()
    request.raw_input_contents.append(b"")
    return request


def both() -> Any:
    request = question()
    request.inputs[0].contents.fp32_contents.append(1)
    return request


def typed(datatype: str, shape: list[int], **contents: Any) -> Any:
    def make() -> Any:
        request = question(datatype=datatype, shape=shape)
        del request.raw_input_contents[:]
        for field, values in contents.items():
            getattr(request.inputs[0].contents, field).extend(values)
        return request

    return make


def with_parameter(where: str, name: str, **value: Any) -> Any:
    def make() -> Any:
        request = question()
        request.outputs.add(name="scores")
        target = {"request": request, "input": request.inputs[0], "output": request.outputs[0]}[where]
        for kind, content in value.items():
            setattr(target.parameters[name], kind, content)
        return request

    return make


MALFORMED = {
    "no message of ours": (lambda: b"\xff\xff\xff", "is no inference.ModelInferRequest"),
    "a length beyond the end": (lambda: b"\x3a\x7f", "is no inference.ModelInferRequest"),
    "a length of 2 GB": (lambda: b"\x3a\xff\xff\xff\xff\x07", "is no inference.ModelInferRequest"),
    "a name that is no UTF-8": (lambda: b"\x0a\x02\xff\xfe", "is no inference.ModelInferRequest"),
    "a negative size": (bad(shape=[-2, 2]), "Expected `int` >= 0"),
    "a shape of 2 GB": (bad(shape=[2**31]), "has 16 bytes of binary data; FP32 of shape .2147483648. wants 8589934592"),
    "a size beyond all bounds": (bad(shape=[2**62]), "<= 1099511627776"),
    "an impossible shape": (typed("FP32", [0, 2**40, 2**40]), "impossible shape"),
    "a rank beyond all bounds": (bad(shape=[1] * 17), "length <= 16"),
    "another datatype": (bad(datatype="FP64"), "FP64 of shape .2, 2. wants 32"),
    "an unknown datatype": (bad(datatype="BF16"), "Invalid enum value 'BF16'"),
    "no name": (bad(name=""), "length >= 1"),
    "an input given twice": (doubled, "x is given twice"),
    "raw data that no input claims": (more_raw, "1 inputs and 2 raw_input_contents"),
    "raw and typed data": (both, "both contents and raw_input_contents"),
    "no data": (typed("FP32", [1, 2]), "has 0 values in fp32_contents"),
    "data in another field": (typed("FP32", [1, 2], fp64_contents=[1, 2]), "has 0 values in fp32_contents"),
    "typed halves": (typed("FP16", [1, 2]), "raw_input_contents only"),
    "a number too large for its type": (typed("INT8", [1, 2], int_contents=[1, 200]), "outside of INT8"),
    "an id without end": (lambda: Request(model_name="digits", id="x" * 1025), "id is longer than 1024"),
    "too many inputs": (lambda: Request(model_name="digits", inputs=[{}] * 257), "more than 256"),
    "an input in shared memory": (with_parameter("input", "shared_memory_region", string_param="a"), "shared memory"),
    "an output in shared memory": (with_parameter("output", "shared_memory_region", string_param="a"), "shared memory"),
    "fewer classes than none": (with_parameter("output", "classification", int64_param=-1), "classification is -1"),
    "a timeout that is no number": (with_parameter("request", "timeout", string_param="1"), "timeout is no whole number"),
    "an input that the model lacks": (bad(name="y"), "The inputs are y; wanted exactly x"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_message_is_an_invalid_argument_that_says_what_is_wrong_and_the_next_one_works(
    channel: Any, case: str
) -> None:
    make, message = MALFORMED[case]
    refused = refusal(channel, make())
    assert refused.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert re.search(message, str(refused.details()))
    assert works(channel)


@pytest.mark.parametrize("name", ["timeout", "priority"])
@pytest.mark.parametrize("kind", ["int64_param", "uint64_param"])
def test_a_wish_of_0_is_none(channel: Any, name: str, kind: str) -> None:
    request = with_parameter("request", name, **{kind: 0})()
    assert len(ask(channel, request)[0].raw_output_contents) == 1


def test_every_method_refuses_what_is_no_message(channel: Any) -> None:
    for path in (
        INFER,
        LIVE,
        "/tensorflow.serving.PredictionService/Predict",
        "/tensorflow.serving.ModelService/GetModelStatus",
    ):
        assert refusal(channel, b"\xff\xff\xff", path=path).code() == grpc.StatusCode.INVALID_ARGUMENT
    assert refusal(channel, b"", path="/inference.GRPCInferenceService/Nothing").code() == grpc.StatusCode.UNIMPLEMENTED


def test_a_message_beyond_the_limit_is_refused(channel: Any) -> None:
    assert refusal(channel, bytes(1_000_001)).code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert works(channel)


def test_headers_beyond_the_limit_are_refused(channel: Any) -> None:
    refused = refusal(channel, metadata=(("x", "y" * grpc_server.METADATA_BYTES),))
    assert refused.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert works(channel)


def test_a_claim_of_two_gigabytes_costs_no_memory(channel: Any, bare: socket.socket) -> None:
    before = psutil.Process().memory_info().rss
    bare.sendall(http2.request(INFER, http2.prefixed(b"abc", claim=2**31 - 1), ends=False))
    said = http2.ended(bare)
    assert b"larger than max" in said
    assert psutil.Process().memory_info().rss - before < 100_000_000
    assert works(channel)


def test_a_message_that_breaks_off_is_refused(channel: Any, bare: socket.socket) -> None:
    bare.sendall(http2.request(INFER, http2.prefixed(b"abc", claim=1000)))
    assert http2.ended(bare)
    assert works(channel)


def test_a_client_that_half_closes_its_socket_in_the_middle_is_let_go(channel: Any, bare: socket.socket) -> None:
    bare.sendall(http2.request(INFER, http2.prefixed(b"abc", claim=1000), ends=False))
    bare.shutdown(socket.SHUT_WR)
    while bare.recv(1 << 16):
        pass
    assert works(channel)


def test_what_is_no_http2_is_let_go(server: LocalServer, channel: Any) -> None:
    host, port = str(server.grpc_address).split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while connection.recv(1 << 16):
            pass
    assert works(channel)


def test_a_client_that_is_too_slow_ends_with_its_deadline_exceeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_app, "BODY_TIMEOUT_S", 0.2)
    server = LocalServer(host_of(1, 0, 0), grpc="127.0.0.1:0")
    server.start()
    try:
        host, port = str(server.grpc_address).split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(http2.opening() + http2.request(INFER, http2.prefixed(b"abc", claim=1000), ends=False))
            assert b"No whole message arrived within 0.2 s." in http2.ended(connection)
        with grpc.insecure_channel(str(server.grpc_address)) as channel:
            assert works(channel)
    finally:
        server.stop()


def test_connections_are_bounded_and_room_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_server, "CONNECTIONS", 2)
    server = LocalServer(host_of(1, 0, 0), grpc="127.0.0.1:0")
    server.start()
    host, port = str(server.grpc_address).split(":")
    try:
        held = [socket.create_connection((host, int(port)), timeout=10) for _ in range(2)]
        for each in held:
            each.sendall(http2.opening())
            assert each.recv(1 << 16)
        with socket.create_connection((host, int(port)), timeout=10) as third, contextlib.suppress(ConnectionError):
            assert third.recv(1 << 16) == b""
        for each in held:
            each.close()
        with grpc.insecure_channel(str(server.grpc_address)) as channel:
            until(lambda: is_answered(channel), "a place is free")
    finally:
        server.stop()


def is_answered(channel: Any) -> bool:
    with contextlib.suppress(grpc.RpcError):
        return works(channel)
    return False


def test_all_messages_together_are_bounded_and_room_comes_back() -> None:
    may_answer = threading.Event()

    def answer(x: np.ndarray) -> np.ndarray:
        assert may_answer.wait(20)
        return np.zeros((len(x), 3), np.float32)

    host = ModelHost()
    host.activate(ModelIdentity("digits", "1.0.0", "sha256:" + "0" * 64, "float"), model_of(ScriptedEngine(answer)))
    server = LocalServer(host, grpc="127.0.0.1:0", body_bytes=1_000_000)
    server.start()
    big = question(shape=[120_000, 2])
    big.raw_input_contents[0] = bytes(960_000)
    try:
        with grpc.insecure_channel(str(server.grpc_address)) as channel:
            method = channel.unary_unary(INFER)
            asked = [method.future(big.SerializeToString(), timeout=20) for _ in range(8)]
            until(lambda: sum(each.done() for each in asked) == len(asked) - HELD_BODIES, "what is too much is refused")
            assert {each.code() for each in asked if each.done()} == {grpc.StatusCode.UNAVAILABLE}
            may_answer.set()
            codes = [each.code() for each in asked]
            assert codes.count(grpc.StatusCode.OK) == HELD_BODIES
            assert works(channel)
    finally:
        may_answer.set()
        server.stop()


@pytest.fixture
def socket_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unix sockets' paths are short."""
    return tmp_path_factory.mktemp("g") / "s"


def test_a_unix_socket_is_listened_on_and_ends_with_its_server(socket_path: Path) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(socket_path))
    left.close()
    server = LocalServer(host_of(1, 0, 0), grpc=f"unix:{socket_path}")
    server.start()
    try:
        assert stat.S_IMODE(socket_path.stat().st_mode) == 0o660
        with grpc.insecure_channel(f"unix:{socket_path}") as channel:
            assert works(channel)
        with pytest.raises(CannotListen, match="it is in use"):
            LocalServer(ModelHost(), grpc=f"unix:{socket_path}").start()
    finally:
        server.stop()
    assert not socket_path.exists()


def test_a_file_that_is_no_socket_is_left_alone(socket_path: Path) -> None:
    socket_path.write_text("precious")
    with pytest.raises(CannotListen, match="Cannot listen"):
        LocalServer(ModelHost(), grpc=f"unix:{socket_path}").start()
    assert socket_path.read_text() == "precious"


def test_a_taken_port_is_said_and_http_does_not_stay_behind(server: LocalServer) -> None:
    second = LocalServer(ModelHost(), grpc=str(server.grpc_address))
    with pytest.raises(CannotListen, match=r"Cannot listen for gRPC on 127\.0\.0\.1"):
        second.start()
    third = LocalServer(ModelHost(), grpc="127.0.0.1:0", port=int(server.url.rsplit(":", 1)[1]))
    with pytest.raises(CannotListen, match="already in use"):
        third.start()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(str(third.grpc_address).rsplit(":", 1)[1])), timeout=5)


def test_without_grpcio_it_says_which_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(ProtocolUnavailable, match=r"pip install 'edgeward\[grpc\]'"):
        LocalServer(ModelHost(), grpc="127.0.0.1:0").start()


def test_stopping_twice_and_before_the_start_does_nothing() -> None:
    server = LocalServer(ModelHost(), grpc="127.0.0.1:0")
    server.stop()
    started = LocalServer(ModelHost(), grpc="127.0.0.1:0")
    started.start()
    started.stop()
    started.stop()
