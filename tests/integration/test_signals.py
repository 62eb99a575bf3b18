"""Sound, numbers and bytes from end to end: converted with, predicted from, streamed and served to; and docs/signals.md."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
import tritonclient.grpc
import tritonclient.http
from onnx import TensorProto, helper

import converters
from converters.errors import DataRejected
from fleet_protocol.processing import (
    Bytes,
    Cast,
    FitLength,
    InputProcessing,
    InputStep,
    Normalise,
    Processing,
    ResultProcessing,
    Tensor,
    TopK,
    decode_processing,
)
from runtime import ModelHost
from runtime.local_server.server import LocalServer
from runtime.sources import find
from runtime.streaming import Stream
from runtime.streaming.directory import DirectoryItems, Seen
from runtime.streaming.places import Answered
from runtime.streaming.results import CalledResults
from tests.integration.test_pictures_pages import blocks, run_commands
from tests.support.central_side import edgeward
from tests.support.sounds import tone, wav

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "signals.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory after the first example of the page was followed."""
    directory = tmp_path_factory.mktemp("page")
    (directory / "sounds.toml").write_text(blocks(PAGE, "toml")[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        exec(compile(blocks(PAGE, "python")[0], "docs/signals.md", "exec"), {})
        *_, shown = run_commands(blocks(PAGE, "")[0])
        assert re.search(r"^0 +sound +whistle +0\.9", shown, re.MULTILINE)
    return directory


def test_every_declaration_on_the_page_can_be_read() -> None:
    assert len([decode_processing(block.encode()) for block in blocks(PAGE, "toml")]) == 5


def test_the_bundle_names_its_classes_and_lost_nothing(place: Path) -> None:
    source = find(place / "sounds-1.0.0")
    assert source.labels == ("hum", "whistle")
    shown = edgeward("inspect", place / "sounds-1.0.0").stdout
    assert "Makes    features: audio → fit_length → frames → window → spectrum → mel → log → reshape\n" in shown
    assert "Results  sound: probabilities → top_k\n" in shown
    [accuracy] = {
        each["accuracy"]["value"] for each in json.loads((place / "sounds-1.0.0" / "manifest.json").read_text())["variants"]
    }
    assert accuracy == 1.0


def test_the_program_on_the_page_asks_the_server_for_results(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    with serving(place / "sounds-1.0.0") as running:
        code = blocks(PAGE, "python")[1].replace("http://127.0.0.1:8000", running.url)
        exec(compile(code, "docs/signals.md", "exec"), {})
    assert capsys.readouterr().out == "['whistle', 'hum']\n"


def test_a_recording_that_is_put_into_a_directory_is_heard(place: Path, tmp_path: Path) -> None:
    (tmp_path / "hum.wav").write_bytes(wav(tone(200, seconds=0.25, rate=8000), rate=8000))
    (tmp_path / "other.wav").write_bytes(wav(tone(200)))
    source = find(place / "sounds-1.0.0")
    host, said = ModelHost(), list[Answered]()
    host.activate(source.identity, source.load(), source.labels)
    files = DirectoryItems(tmp_path, Seen(tmp_path / ".seen"), look_every_s=0.01, follow=False)
    counts = Stream(host, "sounds", files, CalledResults(said.append)).run(threading.Event())
    host.deactivate("sounds")
    assert (counts.answered, counts.failed) == (1, 1)
    by_name = {each.item: each for each in said}
    assert by_name["hum.wav"].results is not None
    assert by_name["hum.wav"].results[0]["sound"].labels[0] == "hum"
    assert "has 16000 samples a second; the model takes 8000" in by_name["other.wav"].error


def lines_of(done: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in done.splitlines()]


STD = Normalise(mean=(10.0, 20.0), std=(2.0, 4.0))


@contextlib.contextmanager
def serving(path: Path) -> Iterator[LocalServer]:
    source, host = find(path), ModelHost()
    host.activate(source.identity, source.load(), source.labels)
    running = LocalServer(host, grpc="127.0.0.1:0")
    running.start()
    try:
        yield running
    finally:
        running.stop()
        host.deactivate(source.identity.model)


def doubling(path: Path, datatype: int = TensorProto.FLOAT, features: int = 2) -> Path:
    """x[N, features] to scores[N, features]: twice x."""
    cast = helper.make_node("Cast", ["x"], ["real"], to=TensorProto.FLOAT)
    nodes = [cast, helper.make_node("Add", ["real", "real"], ["scores"])]
    graph = helper.make_graph(
        nodes,
        "doubling",
        [helper.make_tensor_value_info("x", datatype, ["N", features])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", features])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def declared(*steps: InputStep) -> Processing:
    best = ResultProcessing(name="best", tensor="scores", steps=(TopK(k=1),))
    return Processing(inputs=(InputProcessing(tensor="x", steps=steps),), results=(best,))


RAW = np.random.default_rng(1).normal([10, 20], [2, 4], (60, 2)).astype(np.float32)
SCALED = ((RAW - np.array([10, 20], np.float32)) / np.array([2, 4], np.float32)).astype(np.float32)


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose manifest scales what it is given, converted from raw samples."""
    work = tmp_path_factory.mktemp("scaled")
    np.savez(work / "raw.npz", x=RAW, label=SCALED.argmax(axis=1))
    converters.convert(
        doubling(work / "m.onnx"), work / "raw.npz", model="scaled", version="1.0.0", out=work / "bundle",
        processing=declared(Tensor(shape=(2,)), STD), prefer="float32", tflite=False,
    )  # fmt: skip
    return work / "bundle"


def test_raw_samples_calibrate_as_scaled_ones_would(scaled: Path) -> None:
    golden = np.load(scaled / "golden.npz")["input/x"]
    assert {tuple(row) for row in golden} <= {tuple(row) for row in SCALED}


def test_samples_that_the_steps_cannot_take_are_refused_by_their_place(tmp_path: Path) -> None:
    wrong = RAW.copy()
    wrong[7] = np.nan
    model = doubling(tmp_path / "m.onnx", TensorProto.INT32)
    for data, message in (
        ({"x": wrong}, "Sample 7 of 'x' cannot be given to the model: It holds NaN"),
        ({"x": np.array(["a"] * 40)}, "Sample 0 of 'x' cannot be given"),
        ({"x": RAW[:0]}, "There are no samples for the input 'x'"),
    ):
        with pytest.raises(DataRejected, match=message):
            converters.convert(
                model, data, model="m", version="1.0.0", out=tmp_path / "out",
                processing=declared(Tensor(shape=(2,)), Cast(datatype="INT32")),
            )  # fmt: skip


def test_predict_and_stream_take_raw_numbers(scaled: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "raw.npy", RAW[0])
    answer = json.loads(edgeward("predict", scaled, tmp_path / "raw.npy", "--json").stdout)
    np.testing.assert_allclose(answer["outputs"]["scores"], [SCALED[0] * 2], rtol=1e-6)
    assert answer["results"][0]["best"]["classes"] == [int(SCALED[0].argmax())]
    given = "\n".join(json.dumps(each) for each in (RAW[0].tolist(), {"x": RAW[:2].tolist()}, [1, "a"], {"x": [1]}))
    (tmp_path / "lines").write_text(given)
    with (tmp_path / "lines").open("rb") as lines:
        first, second, *wrong = lines_of(edgeward("stream", scaled, "--from", "stdin", stdin=lines).stdout)
    assert first["results"] == answer["results"]
    assert isinstance(second["results"], list)
    assert len(second["results"]) == 2
    assert ["error" in each for each in wrong] == [True, True]


@pytest.fixture
def server(scaled: Path) -> Iterator[LocalServer]:
    with serving(scaled) as running:
        yield running


def test_the_server_processes_numbers_only_where_the_request_asks(server: LocalServer) -> None:
    def ask(parameters: Mapping[str, object], data: list[float]) -> httpx.Response:
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": data}
        return httpx.post(f"{server.url}/v2/models/scaled/infer", json={"inputs": [tensor], "parameters": parameters})

    raw, own = RAW[0].tolist(), SCALED[0].tolist()
    wanted = (SCALED[0] * 2).tolist()
    assert ask({"processing": True}, raw).json()["outputs"][0]["data"] == pytest.approx(wanted, rel=1e-6)
    for parameters in ({}, {"processing": False}):
        assert ask(parameters, own).json()["outputs"][0]["data"] == pytest.approx(wanted, rel=1e-6)
    refused = ask({"processing": "yes"}, raw)
    assert (refused.status_code, "processing" in refused.json()["error"]) == (400, True)


@pytest.mark.parametrize("client", [tritonclient.http, tritonclient.grpc])
def test_an_existing_client_asks_for_processing_with_a_parameter(client: Any, server: LocalServer) -> None:
    address = server.url.removeprefix("http://") if client is tritonclient.http else server.grpc_address
    given = client.InferInput("x", [1, 2], "FP32")
    given.set_data_from_numpy(RAW[:1])
    with client.InferenceServerClient(address) as asking:
        answer = asking.infer("scaled", [given], parameters={"processing": True}).as_numpy("scores")
    np.testing.assert_array_equal(answer, SCALED[:1] * 2)


@pytest.mark.parametrize("client", [tritonclient.http, tritonclient.grpc])
def test_an_existing_client_asks_for_the_declared_results_with_a_parameter(client: Any, server: LocalServer) -> None:
    address = server.url.removeprefix("http://") if client is tritonclient.http else server.grpc_address
    given = client.InferInput("x", [len(RAW), 2], "FP32")
    given.set_data_from_numpy(RAW)
    wished = [client.InferRequestedOutput("best")]
    with client.InferenceServerClient(address) as asking:
        answer = asking.infer("scaled", [given], outputs=wished, parameters={"processing": True, "results": True})
    found = [json.loads(each) for each in answer.as_numpy("best")]
    assert [each["classes"][0] for each in found] == SCALED.argmax(axis=1).tolist()
    assert [each["scores"][0] for each in found] == pytest.approx((SCALED * 2).max(axis=1).tolist(), rel=1e-6)


def test_results_take_the_place_of_outputs_only_where_the_request_asks(server: LocalServer) -> None:
    def ask(parameters: Mapping[str, object], **more: object) -> httpx.Response:
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": SCALED[0].tolist()}
        asked = {"inputs": [tensor], "parameters": parameters, **more}
        return httpx.post(f"{server.url}/v2/models/scaled/infer", json=asked)

    [result] = ask({"results": True}).json()["outputs"]
    assert (result["name"], result["datatype"], result["shape"]) == ("best", "BYTES", [1])
    assert json.loads(result["data"][0])["labels"] == [str(SCALED[0].argmax())]
    assert [each["name"] for each in ask({"results": False}).json()["outputs"]] == ["scores"]
    refused = ask({"results": True}, outputs=[{"name": "scores"}])
    assert (refused.status_code, "no output scores; it has best" in refused.json()["error"]) == (400, True)
    assert ask({"results": 1}).status_code == 400


def test_a_model_without_steps_says_so_to_who_asks_for_them(tmp_path: Path) -> None:
    source, host = find(doubling(tmp_path / "plain.onnx")), ModelHost()
    host.activate(source.identity, source.load())
    running = LocalServer(host)
    running.start()
    try:
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
        asked = {"inputs": [tensor], "parameters": {"processing": True}}
        refused = httpx.post(f"{running.url}/v2/models/plain/infer", json=asked)
        unheard = httpx.post(f"{running.url}/v2/models/plain/infer", json={**asked, "parameters": {"results": True}})
    finally:
        running.stop()
        host.deactivate("plain")
    assert (refused.status_code, "declares no processing" in refused.json()["error"]) == (400, True)
    assert (unheard.status_code, "declares no results" in unheard.json()["error"]) == (400, True)


@pytest.fixture
def looking(tmp_path: Path) -> Iterator[LocalServer]:
    """A server whose model takes the first two bytes of a file, and answers twice these."""
    steps = (Bytes(), FitLength(length=2), Cast(datatype="INT32"))
    found = find(doubling(tmp_path / "looking.onnx", TensorProto.INT32))
    host = ModelHost()
    host.activate(found.identity, dataclasses.replace(found, processing=declared(*steps)).load())
    running = LocalServer(host)
    running.start()
    yield running
    running.stop()
    host.deactivate("looking")


def test_the_server_takes_files_as_bytes_as_texts_and_as_base64(looking: LocalServer) -> None:
    given = tritonclient.http.InferInput("x", [2], "BYTES")
    given.set_data_from_numpy(np.array([b"\xff\x01", b"cafe"], object), binary_data=True)
    with tritonclient.http.InferenceServerClient(looking.url.removeprefix("http://")) as client:
        assert client.infer("looking", [given]).as_numpy("scores").tolist() == [[510, 2], [198, 194]]
    text = {"name": "x", "datatype": "BYTES", "shape": [1], "data": ["cafe"]}
    answer = httpx.post(f"{looking.url}/v2/models/looking/infer", json={"inputs": [text]})
    assert answer.json()["outputs"][0]["data"] == [198, 194]
    packed = {"b64": base64.b64encode(b"\xff\x01").decode()}
    answer = httpx.post(f"{looking.url}/v1/models/looking:predict", json={"instances": [packed]})
    assert answer.json()["predictions"] == [[510, 2]]
