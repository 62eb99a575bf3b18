"""Edgeward's conversion beside other quantizers: the same model, the same samples, one run.

`python -m bench.converters [--models FOLDER] [--peers VENV] [--tensorflow VENV] [NAME …]`. Digits has real labels. ResNet-8
has no samples here: it gets random images with structure, so only agreement and noise count. `--models` adds every
NAME.onnx of a folder, with its samples in NAME.npz (an array for each input, and `label` where known; the model
was not trained with them) and, where there are such, the int8 file that its makers publish, NAME.int8.tflite, and the Keras
file that it came from, NAME.h5 or NAME.keras. `python -m bench.zoo FOLDER` trains such models. Each model is one line of
JSON, printed as soon as it is measured: a stop loses none.
ai-edge-quantizer gets the float file that our emitter makes. `--peers` is an environment made by hand with
`pip install nncf onnx onnxruntime`, whose NNCF is run too: its default, for transformers, and with accuracy control;
`--tensorflow` one with `pip install tensorflow`, whose converter makes int8 of the Keras file.
(neural-compressor 3.10 has no ONNX backend any more.) With scikit-learn and skl2onnx on the path,
two models trained on the spot are measured too. Static int8 with all 8 bits also runs as on an AVX2 processor without VNNI
(`bench.avx2_only`, else qemu-user), beside what our own check predicts of it. Latency is single-sample, one thread, in the
process's own time, through `runtime` for all alike.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static

import converters
import runtime
from bench import avx2_only, official_int8
from converters.data.calibration import Dataset, make_dataset
from converters.judging.evaluation import Outputs, latencies, run
from converters.judging.measures import vector_metric
from converters.judging.metrics import area_under_curve
from converters.quantizing.quantize import Quantizer
from converters.quantizing.saturation import emulate, layers_at_risk
from converters.recipe import StaticRecipe
from converters.sources import read_onnx
from converters.tflite.emitter import emit
from converters.tflite.serialise import SIGNATURE
from converters.tflite.source import prepare
from runtime import parity

Array = NDArray[Any]
Files = dict[str, tuple[Path, dict[str, str]]]
"""Models by name, with the engine's options."""

_ROOT = Path(__file__).parents[1]
_RESNET = _ROOT.parent / "shared" / "data" / "resnet8_cifar10" / "float.onnx"
_OFFICIAL = "official int8"
_OF_TENSORFLOW = "TensorFlow's converter"
_PEER_SECONDS = 150
_LITERT_SAMPLES = 200
_TIMING_SECONDS = 0.5
_NNCF = """
import sys, numpy as np, nncf, onnx, onnxruntime
model, data, out, kind, count = sys.argv[1:]
arrays, given = np.load(data), onnx.load(model)
names = [value.name for value in given.graph.input]
samples = [{name: arrays[name][at : at + 1] for name in names} for at in range(int(count))]
data = nncf.Dataset(samples)
def accuracy(made, _):
    content = made.SerializeToString() if hasattr(made, "SerializeToString") else made
    engine = onnxruntime.InferenceSession(content)
    return float(np.mean([engine.run(None, each)[0].argmax() == label for each, label in zip(samples, arrays["label"])])), None
if kind == "accuracy control":
    made = nncf.quantize_with_accuracy_control(given, data, data, accuracy, max_drop=0.005, subset_size=len(samples))
else:
    kinds = {"transformer": nncf.ModelType.TRANSFORMER}
    made = nncf.quantize(given, data, subset_size=len(samples), model_type=kinds.get(kind))
onnx.save(made, out)
"""
_TENSORFLOW = """
import sys, numpy as np, tensorflow as tf
model, data, out, kind = sys.argv[1:]
converter = tf.lite.TFLiteConverter.from_keras_model(tf.keras.models.load_model(model, compile=False))
converter.optimizations = [tf.lite.Optimize.DEFAULT]
if kind == "full int8":
    (samples,) = np.load(data).values()
    converter.representative_dataset = lambda: ([each[None].astype(np.float32)] for each in samples)
open(out, "wb").write(converter.convert())
"""
_CHILD = """
import sys, numpy, onnxruntime
options = onnxruntime.SessionOptions(); options.intra_op_num_threads = 1
z = numpy.load(sys.argv[2])
engine = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
numpy.save(sys.argv[3], engine.run(None, dict(z))[0])
"""


@dataclass(frozen=True)
class Case:
    """A model and its samples; `labels` None: none are known."""

    name: str
    model: Path
    inputs: dict[str, Array]
    labels: Array | None
    official: Path | None = None
    """The int8 .tflite file that the model's makers publish."""
    keras: Path | None = None
    """The Keras file that the model was exported from."""

    def take(self, first: int, behind: int | None = None) -> dict[str, Array]:
        """The samples from `first` up to `behind`."""
        return {name: values[first:behind] for name, values in self.inputs.items()}

    @property
    def count(self) -> int:
        """How many samples there are."""
        return len(next(iter(self.inputs.values())))


@dataclass(frozen=True)
class Peers:
    """Virtual environments with what is not installed here; None: it is not measured."""

    nncf: Path | None = None
    tensorflow: Path | None = None


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    def __init__(self, case: Case, count: int) -> None:
        self._rest = iter(case.take(at, at + 1) for at in range(count))

    def get_next(self) -> dict[str, Array] | None:
        return next(self._rest, None)


def measure() -> dict[str, object]:
    return dict(measured())


def measured(
    given: Path | None = None, peers: Peers | None = None, names: Sequence[str] = ()
) -> Iterator[tuple[str, dict[str, object]]]:
    """Each model's name and figures, as they come. A model that cannot be measured says why, and the next one follows."""
    with tempfile.TemporaryDirectory(prefix="edgeward-bench-") as folder:
        for case in cases(Path(folder), given):
            if names and case.name not in names:
                continue
            try:
                yield case.name, _measure(case, Path(folder), peers or Peers())
            except Exception as error:  # noqa: BLE001  # whatever fails with one model, the others are measured
                yield case.name, _failure(error)


def _failure(error: Exception) -> dict[str, object]:
    return {"failed": (str(error).splitlines() or [type(error).__name__])[0][:200]}


def cases(work: Path, given: Path | None) -> Iterator[Case]:
    """The models of the folder `given`, then those that are here; what has to be made first goes to `work`."""
    yield from in_folder(given) if given else ()
    with np.load(_ROOT / "examples" / "digits" / "digits.npz") as arrays:
        yield Case("digits", _ROOT / "examples" / "digits" / "digits-v1.onnx", {"pixels": arrays["pixels"]}, arrays["label"])
    if _RESNET.exists():
        official, keras = (_RESNET.with_name(name) for name in ("official_int8.tflite", "model.h5"))
        yield Case("resnet8 (random images)", _RESNET, {"input_1": _images(192) * np.float32(255)}, None, official, keras)
    if importlib.util.find_spec("sklearn") and importlib.util.find_spec("skl2onnx"):
        yield from _scikit(work)


def in_folder(folder: Path) -> Iterator[Case]:
    """The models of a folder that have samples beside them."""
    for path in sorted(folder.glob("*.onnx")):
        samples, official = path.with_suffix(".npz"), path.with_suffix(".int8.tflite")
        keras = next((each for each in map(path.with_suffix, (".h5", ".keras")) if each.exists()), None)
        if not samples.exists():
            print(f"{path.name} has no samples: {samples.name} is not there.", file=sys.stderr)
            continue
        with np.load(samples) as arrays:
            found = dict(arrays)
        labels = found.pop("label", None)
        taken = {value.name for value in onnx.load_model(str(path), load_external_data=False).graph.input}
        found = {name: values for name, values in found.items() if name in taken}
        yield Case(path.stem, path, found, labels, official if official.exists() else None, keras)


def _images(count: int) -> Array:
    walk = np.random.default_rng(0).normal(size=(count, 32, 32, 3)).cumsum(1).cumsum(2)
    walk -= walk.min(axis=(1, 2, 3), keepdims=True)
    return np.asarray(walk / walk.max(axis=(1, 2, 3), keepdims=True), np.float32)


def _scikit(work: Path) -> Iterator[Case]:
    sets, network, to_onnx = (
        importlib.import_module(name) for name in ("sklearn.datasets", "sklearn.neural_network", "skl2onnx")
    )
    digits, diabetes = sets.load_digits(), sets.load_diabetes()
    for name, data, kind, options in (
        ("sklearn digits", digits, network.MLPClassifier, {"zipmap": False}),
        ("sklearn diabetes", diabetes, network.MLPRegressor, {}),
    ):
        x = data.data.astype(np.float32)
        x /= np.abs(x).max()
        half = len(x) // 2
        model = kind(hidden_layer_sizes=(256, 128), max_iter=300, random_state=0).fit(x[:half], data.target[:half])
        path = work / f"{name.replace(' ', '-')}.onnx"
        made = to_onnx.to_onnx(model, x[:1], options={id(model): options} if options else None, target_opset=17)
        if len(made.graph.output) > 1:  # class numbers, then probabilities: the probabilities tell both
            del made.graph.output[0]
        path.write_bytes(made.SerializeToString())
        labels = data.target[half:] if kind is network.MLPClassifier else None
        yield Case(name, path, {made.graph.input[0].name: x[half:]}, labels)


def _measure(case: Case, work: Path, peers: Peers) -> dict[str, object]:
    print(f"measuring {case.name} …", file=sys.stderr)
    folder = work / case.name.replace(" ", "-")
    third = case.count // 3
    arrays = case.inputs | ({} if case.labels is None else {"label": case.labels.astype(np.int64)})
    began = time.perf_counter()
    bundle = converters.convert(case.model, arrays, model="bench", version="1.0.0", out=folder)
    seconds = time.perf_counter() - began
    files: Files = {"given": (case.model, {})}
    for variant in bundle.manifest.variants:
        files[f"edgeward {variant.name}"] = (bundle.path(variant.file), variant.session_options)
    failed: dict[str, object] = {}
    of_tensorflow = _tensorflow(case, peers)
    for name, make in (_PEERS | _nncf(case, peers) | of_tensorflow).items():
        path = work / f"{case.name}-{name}.{'tflite' if name in _LITERT | of_tensorflow else 'onnx'}".replace(" ", "-")
        try:
            make(case, third, path)
            runtime.load(path, threads=1).close()
        except Exception as error:  # noqa: BLE001  # a peer that fails, however it does, is a result
            failed[name] = _failure(error)
        else:
            files[name] = (path, {})
    if case.official:
        files[_OFFICIAL] = (case.official, {})
    table = _compare(case, files) | failed
    first = f"edgeward {bundle.manifest.variants[0].name}"
    return {
        "seconds": round(seconds, 1),
        "first choice": first,
        "variants": table,
        "saturation": _saturation(case, third, work),
    }


def _static(case: Case, count: int, path: Path) -> None:
    quantize_static(case.model, path, _Reader(case, count))


def _avx2(case: Case, count: int, path: Path) -> None:
    quantize_static(
        case.model, path, _Reader(case, count), per_channel=True, reduce_range=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip


def _dynamic(case: Case, _count: int, path: Path) -> None:
    quantize_dynamic(case.model, path)


def _edge_quantizer(kind: str, case: Case, count: int, path: Path) -> None:
    """ai-edge-quantizer's own recipe and calibration, on the float file that our emitter makes: it reads no ONNX.

    Inputs and outputs stay float, as everybody's do here.
    """
    batches = [case.take(at, at + 1) for at in range(min(count, _LITERT_SAMPLES))]
    content = emit(prepare(onnx.load_model(str(case.model))))
    recipe, quantizer, manager, types = (
        importlib.import_module(f"ai_edge_quantizer.{name}") for name in ("recipe", "quantizer", "recipe_manager", "qtyping")
    )
    made = manager.RecipeManager()
    made.load_quantization_recipe(getattr(recipe, kind)())
    for end in ("INPUT", "OUTPUT") if kind.startswith("static") else ():
        made.add_quantization_config(".*", types.TFLOperationName(end), algorithm_key="no_quantize")
    peer = quantizer.Quantizer(bytearray(content), made.get_quantization_recipe())
    statistics = peer.calibrate({SIGNATURE: batches}) if peer.need_calibration else None
    with contextlib.redirect_stdout(sys.stderr):  # it tells of sizes there
        path.write_bytes(bytes(peer.quantize(statistics).quantized_model))


_LITERT: dict[str, Callable[[Case, int, Path], None]] = {
    "ai-edge-quantizer, static": partial(_edge_quantizer, "static_wi8_ai8"),
    "ai-edge-quantizer, dynamic": partial(_edge_quantizer, "dynamic_wi8_afp32"),
    "ai-edge-quantizer, weights only": partial(_edge_quantizer, "weight_only_wi8_afp32"),
}
_PEERS: dict[str, Callable[[Case, int, Path], None]] = {
    "onnxruntime static, default": _static,
    "onnxruntime static, documented for AVX2": _avx2,
    "onnxruntime dynamic, default": _dynamic,
} | _LITERT


def _nncf(case: Case, peers: Peers) -> dict[str, Callable[[Case, int, Path], None]]:
    if peers.nncf is None:
        return {}
    kinds = [
        "default",
        *(["transformer"] if len(case.inputs) > 1 else []),
        *(["accuracy control"] if case.labels is not None else []),
    ]
    return {f"NNCF, {kind}": partial(_run_nncf, peers.nncf, kind) for kind in kinds}


def _tensorflow(case: Case, peers: Peers) -> dict[str, Callable[[Case, int, Path], None]]:
    if peers.tensorflow is None or case.keras is None:
        return {}
    return {f"{_OF_TENSORFLOW}, {kind}": partial(_run_tensorflow, peers.tensorflow, kind) for kind in ("full int8", "dynamic")}


def _run_tensorflow(venv: Path, kind: str, case: Case, count: int, path: Path) -> None:
    data = path.with_suffix(".npz")
    np.savez(data, allow_pickle=False, **case.take(0, min(count, _LITERT_SAMPLES)))
    _run_peer([str(venv / "bin" / "python"), "-c", _TENSORFLOW, str(case.keras), str(data), str(path), kind])


def _run_nncf(peers: Path, kind: str, case: Case, count: int, path: Path) -> None:
    data = path.with_suffix(".npz")
    labels = {} if case.labels is None else {"label": case.labels[:count]}
    np.savez(data, allow_pickle=False, **case.take(0, count), **labels)
    command = [str(peers / "bin" / "python"), "-c", _NNCF, str(case.model), str(data), str(path), kind, str(min(count, 300))]
    _run_peer(command)


def _run_peer(command: list[str]) -> None:
    done = subprocess.run(command, check=False, timeout=_PEER_SECONDS, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr.strip() or "no word").splitlines()[-1])


def _engine(path: Path, options: dict[str, str]) -> onnxruntime.InferenceSession:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 3
    for name, value in options.items():
        settings.add_session_config_entry(name, value)
    return onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])


def _compare(case: Case, files: Files) -> dict[str, object]:
    given = runtime.load(case.model, threads=1)
    behind = case.count // 3
    data = make_dataset(case.take(behind), given.inputs)
    labels = None if case.labels is None else case.labels[behind:]
    models, answers, failed = dict[str, runtime.Model](), dict[str, Outputs](), dict[str, object]()
    for name, (path, options) in files.items():
        try:
            model = (
                official_int8.load(path, given)
                if name.startswith((_OFFICIAL, _OF_TENSORFLOW))
                else runtime.load(path, session_options=options, threads=1)
            )
            answers[name] = run(model, data, batch=64)
        except Exception as error:  # noqa: BLE001  # a file that fails on the data is a result too
            failed[name] = _failure(error)
        else:
            models[name] = model
    times = latencies(models, data, seconds=len(models) * _TIMING_SECONDS)
    return {
        name: {
            "size ratio": round(path.stat().st_size / files["given"][0].stat().st_size, 3),
            "latency ratio": round(times[name] / times["given"], 3),
            **_quality(answers["given"], answers[name], data, labels),
        }
        for name, (path, _) in files.items()
        if name in models
    } | failed


def _quality(wanted: Outputs, got: Outputs, data: Dataset, labels: Array | None) -> dict[str, float | None]:
    (one, other), x = (next(iter(each.values())) for each in (wanted, got)), next(iter(data.inputs.values()))
    found: dict[str, float | None] = {"SQNR dB": round(parity.sqnr_db(one, other), 1)}
    if labels is not None and x.shape == one.shape:
        error = ((other.astype(np.float64) - x) ** 2).reshape(len(x), -1).mean(axis=1)
        return found | {"AUC": round(area_under_curve(error, labels), 4)}
    vectors = vector_metric(wanted, data)
    if vectors is not None:
        return found | {"cosine": round(vectors.of(got, data, wanted), 4)}
    agreement = parity.agreement(one, other)
    found["agreement"] = None if agreement is None else round(agreement, 4)
    found["accuracy"] = None if labels is None else round(parity.accuracy(other, labels) or 0.0, 4)
    return found


def _saturation(case: Case, count: int, work: Path) -> dict[str, object]:
    """Static int8 with all 8 bits: what our check predicts for AVX2, and what an emulated AVX2 processor answers."""
    samples = case.take(0, count)
    quantizer = Quantizer(read_onnx(case.model), batches=lambda: [samples])
    content = quantizer.apply(StaticRecipe(reduce_range=False))
    model = onnx.load_from_string(content)
    predicted = next(emulate(model, [samples]))[0]
    wanted = _engine(case.model, {}).run(None, samples)[0]
    found: dict[str, object] = {"layers at risk": len(layers_at_risk(model)), "predicted SQNR dB": _db(wanted, predicted)}
    path, data, answer = work / "full.onnx", work / "full.npz", work / "full.npy"
    path.write_bytes(content)
    np.savez(data, allow_pickle=False, **samples)
    if not _on_avx2([sys.executable, "-c", _CHILD, str(path), str(data), str(answer)]):
        return found | {"measured": "needs cpuid_fault in /proc/cpuinfo and gcc, or qemu-user"}
    measured = np.load(answer)
    found |= {"measured SQNR dB": _db(wanted, measured), "prediction to measurement dB": _db(measured, predicted)}
    if measured.ndim == 2 and measured.shape[1] > 1:
        found["predicted agreement"] = round(parity.agreement(wanted, predicted) or 0.0, 4)
        found["measured agreement"] = round(parity.agreement(wanted, measured) or 0.0, 4)
    return found


def _on_avx2(command: list[str]) -> bool:
    """Run it as on a processor without VNNI, natively or else emulated; whether this machine can."""
    if avx2_only.possible():
        avx2_only.run(command, timeout_s=300, capture=True).check_returncode()
    elif shutil.which("qemu-x86_64"):
        subprocess.run(["qemu-x86_64", "-cpu", "Haswell", *command], check=True, timeout=300, capture_output=True)
    else:
        return False
    return True


def _db(reference: Array, actual: Array) -> float:
    return round(parity.sqnr_db(reference, actual), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", "--zoo", type=Path, help="a folder with NAME.onnx, NAME.npz, and maybe NAME.int8.tflite")
    parser.add_argument("--peers", type=Path, help="a virtual environment with nncf")
    parser.add_argument("--tensorflow", type=Path, help="a virtual environment with tensorflow")
    parser.add_argument("names", nargs="*", help="cases to measure; all of them without")
    given = parser.parse_args()
    for name, figures in measured(given.models, Peers(given.peers, given.tensorflow), given.names):
        print(json.dumps({name: figures}), flush=True)


if __name__ == "__main__":
    main()
