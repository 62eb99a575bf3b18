"""Pictures from end to end: converted with, predicted from, served to, and refused with a clear line."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import tritonclient.http

import converters
from converters.errors import DataRejected, SettingsRejected
from fleet_protocol.processing import Processing, decode_processing
from runtime import ModelHost
from runtime.errors import InvalidInput
from runtime.hosting.isolated import load_isolated
from runtime.local_server.server import LocalServer
from runtime.shadowing.shadow import Allowance, Shadow
from runtime.sources import Source, find
from tests.support import pictures
from tests.support.central_side import edgeward
from tests.support.waiting import until

SAMPLES = 200


def declared() -> Processing:
    return decode_processing(pictures.PROCESSING.encode())


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits, converted from a directory of pictures."""
    work = tmp_path_factory.mktemp("pictured")
    data = pictures.write_digits(work / "data", SAMPLES, sorted_by_class=True)
    converters.convert(
        pictures.MODEL, data, model="digits", version="1.0.0", out=work / "bundle", processing=declared(), prefer="float32"
    )
    return work / "bundle"


@pytest.fixture
def source(bundle: Path) -> Source:
    return find(bundle)


def test_pictures_give_the_samples_that_an_npz_gives(bundle: Path, tmp_path: Path) -> None:
    pixels, labels = pictures.digits(SAMPLES)
    order = np.argsort(labels, kind="stable")  # pictures are read directory by directory
    converters.convert(
        pictures.MODEL,
        {"pixels": pixels[order], "label": labels[order]},
        model="digits",
        version="1.0.0",
        out=tmp_path / "plain",
        processing=declared(),
        prefer="float32",
    )
    assert (bundle / "golden.npz").read_bytes() == (tmp_path / "plain" / "golden.npz").read_bytes()
    assert (bundle / "profile.json").read_bytes() == (tmp_path / "plain" / "profile.json").read_bytes()


def test_a_model_takes_pictures_in_place_of_its_tensor(source: Source) -> None:
    model = source.load()
    pixels, labels = pictures.digits(16)
    encoded = np.array([pictures.png(each) for each in pixels], object)
    np.testing.assert_array_equal(model({"pixels": encoded})["probabilities"], model({"pixels": pixels})["probabilities"])
    texts = np.array([base64.b64encode(each).decode() for each in encoded], object)
    np.testing.assert_array_equal(model({"pixels": texts})["probabilities"], model({"pixels": pixels})["probabilities"])
    several = model.predict(list(encoded))
    np.testing.assert_array_equal(several, model.predict(pixels))
    np.testing.assert_array_equal(model.predict(encoded[0]), several[:1])  # type: ignore[index]  # its only output
    np.testing.assert_array_equal(list(model.predict_batches(list(encoded), batch=5)), several)
    assert model.processor is not None
    prepared = model.processor.prepare(list(encoded))
    results = model.processor.results(model(prepared.inputs), prepared.placements)
    right = [each["digit"].classes[0] for each in results] == labels  # type: ignore[union-attr]
    assert np.mean(right) > 0.9
    for wrong, message in ((np.array([3], object), "holds a int"), (np.array(["no picture"], object), "no picture of a known")):
        with pytest.raises(InvalidInput, match=message):
            model({"pixels": wrong})
    model.close()


def test_without_processing_bytes_are_refused_as_before() -> None:
    model = Source(pictures.MODEL, find(pictures.MODEL).identity).load()
    with pytest.raises(InvalidInput, match="pixels is BYTES; wanted pixels: FP32"):
        model({"pixels": np.array([b"\x89PNG"], object)})
    with pytest.raises(InvalidInput, match="pixels is BYTES; wanted pixels: FP32"):
        model.predict(b"\x89PNG")
    model.close()


@pytest.fixture
def server(source: Source) -> Iterator[LocalServer]:
    host = ModelHost()
    host.activate(source.identity, source.load(), source.labels)
    running = LocalServer(host)
    running.start()
    yield running
    running.stop()
    host.deactivate("digits")


def test_the_server_takes_pictures_as_bytes_from_an_existing_client(server: LocalServer) -> None:
    pixels, labels = pictures.digits(4)
    given = tritonclient.http.InferInput("pixels", [4], "BYTES")
    given.set_data_from_numpy(np.array([pictures.png(each) for each in pixels], object), binary_data=True)
    with tritonclient.http.InferenceServerClient(server.url.removeprefix("http://")) as client:
        answer = client.infer("digits", [given]).as_numpy("probabilities")
    assert answer.argmax(axis=1).tolist() == labels.tolist()


def test_the_server_takes_pictures_as_base64_in_json_and_refuses_what_is_none(server: LocalServer) -> None:
    pixels, labels = pictures.digits(1)
    tensor = {"name": "pixels", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(pictures.png(pixels[0])).decode()]}
    answer = httpx.post(f"{server.url}/v2/models/digits/infer", json={"inputs": [tensor]})
    assert np.argmax(answer.json()["outputs"][0]["data"]) == labels[0]
    refused = httpx.post(f"{server.url}/v2/models/digits/infer", json={"inputs": [{**tensor, "data": ["AAAA"]}]})
    assert (refused.status_code, "no picture of a known format" in refused.json()["error"]) == (400, True)


@pytest.mark.parametrize("form", ["rows", "rows by name", "columns", "examples"])
def test_the_server_takes_pictures_as_tensorflow_servings_clients_send_them(server: LocalServer, form: str) -> None:
    pixels, labels = pictures.digits(3)
    packed = [{"b64": base64.b64encode(pictures.png(each)).decode()} for each in pixels]
    named = [{"pixels": each} for each in packed]
    verb, request, key = {
        "rows": ("predict", {"instances": packed}, "predictions"),
        "rows by name": ("predict", {"instances": named}, "predictions"),
        "columns": ("predict", {"inputs": {"pixels": packed}}, "outputs"),
        "examples": ("classify", {"examples": named}, "results"),
    }[form]
    answer = httpx.post(f"{server.url}/v1/models/digits:{verb}", json=request)
    assert answer.status_code == 200, answer.text
    best = [max(range(10), key=lambda at: float(row[at][1] if form == "examples" else row[at])) for row in answer.json()[key]]
    assert best == labels.tolist()


@pytest.mark.parametrize(("text", "said"), [("AAAA", "no picture of a known format"), ("%%%", "is not base64")])
def test_what_is_no_picture_is_refused_over_tensorflow_servings_api(server: LocalServer, text: str, said: str) -> None:
    refused = httpx.post(f"{server.url}/v1/models/digits:predict", json={"instances": [{"b64": text}]})
    assert refused.status_code == 400
    assert said in refused.json()["error"]


def test_a_shadow_and_a_process_of_its_own_take_pictures_as_the_live_model_does(source: Source) -> None:
    pixels, labels = pictures.digits(3)
    encoded = [pictures.png(each) for each in pixels]
    texts = [base64.b64encode(each).decode() for each in encoded]
    host = ModelHost()
    host.activate(source.identity, load_isolated(source, threads=1), source.labels)
    shadow = Shadow(host, "digits", source, Allowance(share=1.0, cpu_share=1.0))

    def compared(given: list[bytes] | list[str], times: int) -> bool:
        """Asked again each time: a copy is let go while the last one's CPU time is not earned."""
        answer = host.infer("digits", {"pixels": np.array(given, object)})
        assert answer.outputs["probabilities"].argmax(axis=1).tolist() == labels.tolist()
        return shadow.record().requests.get("compared", 0) >= times

    shadow.start()
    try:
        until(lambda: shadow.record().state == "running", "the candidate is loaded", timeout_s=60)
        until(lambda: compared(encoded, 2), "two requests with encoded pictures are compared")
        until(lambda: compared(texts, 4), "two requests with base64 are compared")
        record = shadow.record()
    finally:
        shadow.stop()
        host.deactivate("digits")
    assert record.agreement == 1.0
    assert not {"failed", "incomparable", "non_finite", "crashed"} & record.requests.keys()


def test_predict_shows_the_results_of_several_pictures(bundle: Path, tmp_path: Path) -> None:
    pixels, labels = pictures.digits(3)
    files = [tmp_path / f"{at}.png" for at in range(3)]
    for file, each in zip(files, pixels, strict=True):
        file.write_bytes(pictures.png(each))
    done = edgeward("predict", bundle, *files)
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split() for line in done.stdout.splitlines() if line.split()[1:2] == ["digit"]]
    assert [row[2] for row in rows[::3]] == [str(label) for label in labels]
    answer = json.loads(edgeward("predict", bundle, *files, "--json").stdout)
    assert [each["digit"]["classes"][0] for each in answer["results"]] == labels.tolist()


def test_an_explanation_is_written_and_printed_as_numbers(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(pictures.png(pictures.digits(1)[0][0]))
    done = edgeward("predict", bundle, tmp_path / "a.png", "--explain", tmp_path / "why.json", "--json", "--runs", "20")
    printed = json.loads(done.stdout)["explanation"]
    assert printed == json.loads((tmp_path / "why.json").read_text())
    assert printed["runs"] <= 20
    assert np.shape(printed["heat"]) == (8, 8)


@pytest.fixture
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "Give an INPUT"),
        (("good.png", "a.npy"), 1, "a.npy holds tensors, and goes alone"),
        (("nothing.png",), 1, "nothing.png cannot be read"),
        (("broken.png",), 1, "no picture of a known format"),
        (("good.png", "--explain", "why.txt"), 1, "name it .json, or .png"),
        (("good.png", "broken.png"), 1, "no picture of a known format"),
        (("good.png", "--processing", "nothing.toml"), 1, "nothing.toml cannot be read"),
        (("good.png", "--processing", "broken.png"), 1, "broken.png: processing cannot be read|broken.png: processing is not"),
        (("good.png", "good.png", "--explain", "why.png"), 1, "wants one sample"),
        (("good.png", "--explain", "nowhere/why.png"), 1, "nowhere/why.png cannot be written: No such file or directory"),
        (("good.png", "--target", "3"), 2, "give a file with --explain"),
        (("broken.tif",), 1, "no picture of a known format"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    arguments: tuple[str, ...], code: int, message: str, bundle: Path, working_directory: Path
) -> None:
    Path("good.png").write_bytes(pictures.png(pictures.digits(1)[0][0]))
    for name in ("broken.png", "broken.tif"):
        Path(name).write_bytes(b"no picture")
    Path("a.npy").touch()
    done = edgeward("predict", bundle, *arguments)
    assert done.returncode == code
    assert any(each in done.stderr for each in message.split("|")), done.stderr
    assert "Traceback" not in done.stderr


def test_a_picture_for_a_bare_model_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(pictures.png(pictures.digits(1)[0][0]))
    done = edgeward("predict", pictures.MODEL, tmp_path / "a.png")
    assert done.returncode == 1
    assert "Convert the model with --processing" in done.stderr


def convert(data: Path, out: Path, **options: object) -> None:
    given = {"processing": declared(), **options}
    converters.convert(pictures.MODEL, data, model="digits", version="1.0.0", out=out, **given)  # type: ignore[arg-type]


def test_data_that_are_no_good_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataRejected, match="is a directory; pictures and other files need processing"):
        convert(tmp_path, tmp_path / "out", processing=None)
    with pytest.raises(DataRejected, match="holds 0 pictures"):
        convert(tmp_path, tmp_path / "out")
    data = pictures.write_digits(tmp_path / "data", 40, sorted_by_class=True)
    with pytest.raises(DataRejected, match="none of the classes given"):
        convert(data, tmp_path / "out", classes=["zero", "one"])
    (data / "stray.png").write_bytes(pictures.png(pictures.digits(1)[0][0]))
    with pytest.raises(DataRejected, match="beside them"):
        convert(data, tmp_path / "out")
    (data / "stray.png").unlink()
    (data / "3" / "broken.png").write_bytes(b"no picture")
    with pytest.raises(DataRejected, match=r"broken\.png cannot be given to the model: The bytes are no picture"):
        convert(data, tmp_path / "out")


def test_processing_for_another_model_is_refused_before_any_work(tmp_path: Path) -> None:
    data = pictures.write_digits(tmp_path / "data", 40, sorted_by_class=True)
    other = decode_processing(pictures.PROCESSING.replace("NCHW", "NHWC").encode())
    with pytest.raises(SettingsRejected, match=r"pixels: FP32\[\?, 8, 8, 1\]; the model wants"):
        convert(data, tmp_path / "out", processing=other)


def test_directories_that_are_no_numbers_name_the_classes(tmp_path: Path) -> None:
    names = ("eight", "five", "four", "nine", "one", "seven", "six", "three", "two", "zero")
    pixels, labels = pictures.digits(60)
    for at, (each, label) in enumerate(zip(pixels, labels, strict=True)):
        folder = tmp_path / "data" / names[label]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{at}.png").write_bytes(pictures.png(each))
    convert(tmp_path / "data", tmp_path / "out", prefer="float32")
    assert find(tmp_path / "out").labels == names
