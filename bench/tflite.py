"""int8 TFLite from ONNX: seconds, megabytes to install, nearness to ONNX and to TensorFlow's converter, latency ratios.

Goals (issue 4): at most 2 s, at most 400 MB without TensorFlow. The digits example is always measured; ResNet-8 beside what
TensorFlow made of the same network where `../shared/data/` is (noise as samples: there are none, so no accuracy is said).
"""

from __future__ import annotations

import importlib.metadata
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bench import interleaved
from converters.recipe import TFLITE
from converters.tflite.proof import run_onnx, run_tflite
from converters.tflite.variants import TfliteMaker
from runtime import Model, load, parity

ROOT = Path(__file__).parents[1]
DIGITS = ROOT / "examples" / "digits"
RESNET = ROOT.parent / "shared" / "data" / "resnet8_cifar10"

_FOLDER = tempfile.TemporaryDirectory(prefix="edgeward-bench-")

Samples = dict[str, NDArray[Any]]

_COLD = """
import sys, numpy as np, onnx
from pathlib import Path
from converters.recipe import TFLITE
from converters.tflite.variants import TfliteMaker
pixels = np.load(sys.argv[2])["pixels"][:512]
maker = TfliteMaker(onnx.load(sys.argv[1]), batches=lambda: ({"pixels": pixels[at : at + 64]} for at in range(0, 512, 64)))
Path(sys.argv[3]).write_bytes(maker.apply(TFLITE[1]))
"""


def measure() -> dict[str, Any]:
    """All figures as JSON values."""
    found = {"install": _install(), "digits": _digits()}
    if RESNET.is_dir():
        found["resnet8"] = _resnet()
    return found


def _install() -> dict[str, Any]:
    """What a build machine needs: the installed size of edgeward[convert] with everything below it, and bytecode's part of it.

    pip compiles all that it installs, tests of others' packages too, unless it is told `--no-compile`.
    """
    wanted = ["click", "msgspec", "numpy", "rich", "onnx", "onnxruntime", "ai-edge-litert", "ai-edge-quantizer", "psutil"]
    sizes: dict[str, float] = {}
    bytecode = 0.0
    while wanted:
        name = re.sub(r"[-_.]+", "-", wanted.pop()).lower()
        if name in sizes:
            continue
        package = importlib.metadata.distribution(name)
        files = [path for file in package.files or () if (path := Path(str(file.locate()))).is_file()]
        sizes[name] = sum(path.stat().st_size for path in files) / 1e6
        bytecode += sum(path.stat().st_size for path in files if path.suffix == ".pyc") / 1e6
        needs = [each for each in package.requires or () if "extra ==" not in each and _holds(each)]
        wanted += [match.group() for each in needs if (match := re.match(r"[A-Za-z0-9._-]+", each))]
    largest = dict(sorted(sizes.items(), key=lambda each: -each[1])[:6])
    tensorflow = any(name in sizes for name in ("tensorflow", "tensorflow-cpu", "torch"))
    total = {"megabytes": round(sum(sizes.values())), "of_that_bytecode": round(bytecode)}
    return total | {"goal": 400, "largest": largest, "tensorflow": tensorflow}


def _holds(requirement: str) -> bool:
    """Whether a requirement is for this Python and this system, and installed."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    try:
        importlib.metadata.distribution(match.group() if match else "")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _digits() -> dict[str, Any]:
    model = DIGITS / "digits-v1.onnx"
    with np.load(DIGITS / "digits.npz") as arrays:
        pixels, labels = arrays["pixels"], arrays["label"]

    def batches() -> Iterator[Samples]:
        return ({"pixels": pixels[at : at + 64]} for at in range(0, 512, 64))

    found, files = _converted(model, batches, {"pixels": pixels[:64]})
    for name, content in files.items():
        answers = run_tflite(content, {"pixels": pixels[512:]})["probabilities"]
        found["variants"][name]["accuracy"] = round(float((answers.argmax(axis=1) == labels[512:]).mean()), 4)
    found["latency_to_onnxruntime_float"] = _latency({"onnxruntime": model}, files, {"pixels": pixels[:1]}, to="onnxruntime")
    return found | {"cold_process": _cold(model), "goal_s": 2}


def _resnet() -> dict[str, Any]:
    noise = np.random.default_rng(0).uniform(0, 255, (64, 32, 32, 3)).astype(np.float32)

    def batches() -> Iterator[Samples]:
        return ({"input_1": noise[at : at + 16]} for at in range(0, 64, 16))

    found, files = _converted(RESNET / "float.onnx", batches, {"input_1": noise})
    theirs = _answers_of_tensorflow(noise)
    ours = run_tflite(files["tflite-float32"], {"input_1": noise})["output_0"]
    found["sqnr_db_to_tensorflows_float"] = round(parity.sqnr_db(theirs, ours), 1)
    given = {"onnxruntime": RESNET / "float.onnx", "tensorflow-float": RESNET / "float.tflite"}
    found["latency_to_tensorflows_float"] = _latency(given, files, {"input_1": noise[:1]}, to="tensorflow-float")
    official = load(RESNET / "official_int8.tflite", threads=1)
    sample = {official.inputs[0].name: np.zeros((1, 32, 32, 3), np.int8)}
    mine = load(_written(files["tflite-int8"]), threads=1)
    times = interleaved.medians({"official": lambda: official(sample), "ours": lambda: mine({"input_1": noise[:1]})})
    found["int8_latency_to_official_int8"] = interleaved.ratios(times, to="official")["ours"]
    found["bytes"] = {
        "official_int8": (RESNET / "official_int8.tflite").stat().st_size,
        "tflite-int8": len(files["tflite-int8"]),
    }
    return found


def _answers_of_tensorflow(noise: NDArray[Any]) -> NDArray[Any]:
    model = load(RESNET / "float.tflite", threads=1)
    return np.concatenate([model({model.inputs[0].name: each[None]})[model.outputs[0].name] for each in noise])


def _converted(path: Path, batches: Any, samples: Samples) -> tuple[dict[str, Any], dict[str, bytes]]:  # noqa: ANN401
    """Seconds, sizes and nearness of every variant, and the files."""
    model = onnx.load(path)
    wanted = run_onnx(model, samples, [model.graph.output[0].name])
    files, variants = {}, {}
    maker = TfliteMaker(model, batches=batches)
    for recipe in TFLITE:
        started = time.perf_counter()
        files[recipe.name] = maker.apply(recipe)
        seconds = time.perf_counter() - started
        answers = run_tflite(files[recipe.name], samples)
        variants[recipe.name] = {
            "seconds": round(seconds, 3),
            "size_ratio": round(len(files[recipe.name]) / path.stat().st_size, 3),
            "sqnr_db": round(min(parity.sqnr_db(values, answers[name]) for name, values in wanted.items()), 1),
        }
    return {"variants": variants}, files


def _latency(given: dict[str, Path], files: dict[str, bytes], sample: Samples, *, to: str) -> dict[str, float]:
    models = {name: load(path, threads=1) for name, path in given.items()}
    models |= {name: load(_written(content), threads=1) for name, content in files.items()}

    def call(model: Model) -> Any:  # noqa: ANN401
        name = model.inputs[0].name
        return lambda: model({name: next(iter(sample.values()))})

    times = interleaved.medians({name: call(model) for name, model in models.items()})
    return interleaved.ratios(times, to=to)


def _written(content: bytes) -> Path:
    path = Path(_FOLDER.name) / f"{len(content)}-{abs(hash(content))}.tflite"
    path.write_bytes(content)
    return path


def _cold(model: Path) -> dict[str, float]:
    """A fresh process: imports, conversion, proof, calibration, quantization. Median seconds of the wall and the processor.

    The two are apart where other programs keep the machine busy.
    """
    wall, processor = [], []
    for _ in range(5):
        started, used = time.perf_counter(), _children()
        command = [sys.executable, "-c", _COLD, str(model), str(DIGITS / "digits.npz"), str(Path(_FOLDER.name) / "cold.tflite")]
        subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
        wall.append(time.perf_counter() - started)
        processor.append(_children() - used)
    return {"wall_s": round(statistics.median(wall), 2), "processor_s": round(statistics.median(processor), 2)}


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
