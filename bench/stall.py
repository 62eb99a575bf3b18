"""How long live requests pause while a model of 20 MB is loaded beside them, and what one more version of it takes of memory.

TFLite's plain load holds the GIL; prepared, it runs on packed weights and does not. Goal (issue 3): a load off the hot path; a
prepared load, and the anonymous memory of a second version, at most 0.25 of the plain one's. Medians of rounds in turn;
`nothing` is the longest pause without any load, which the machine's other work and the threads themselves make. `run` is one
request of one sample, ÷ that of the plain TFLite model.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bench.interleaved import medians
from bench.runtime import second_version_bytes
from converters.recipe import TFLITE
from converters.tflite.variants import TfliteMaker
from runtime import Model, load
from runtime.example_inputs import example
from runtime.hosting.isolated import InChildren
from runtime.sources import find
from runtime.tuning import prepared
from runtime.tuning.prepared import Prepared

ROUNDS: Final = 9
_SETTLE_S: Final = 0.1
_WIDTHS: Final = (64, 2200, 2200, 10)


def measure() -> dict[str, Any]:
    """Milliseconds: of each load, and of the longest pause between two answers meanwhile. Megabytes of a second version."""
    with tempfile.TemporaryDirectory(prefix="edgeward-bench-") as scratch:
        onnx_file, tflite_file = _models(Path(scratch))
        ready = {path: _prepared(path, Path(scratch) / "cache") for path in (onnx_file, tflite_file)}
        loads: dict[str, Callable[[], Model | None]] = {
            "nothing": _nothing,
            "onnx": lambda: load(onnx_file),
            "onnx prepared": ready[onnx_file].load,
            "tflite": lambda: load(tflite_file),
            "tflite prepared": ready[tflite_file].load,
            "tflite isolated": lambda: InChildren().open(find(tflite_file)),
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in loads}
        with load(_dense(Path(scratch) / "live.onnx", (64, 128, 10))) as live:
            for _ in range(ROUNDS):
                for name, each in loads.items():
                    found[name].append(_paused(live, each))
        return {
            **{name: _medians(pairs) for name, pairs in found.items()},
            "tflite prepared ÷ plain": _tflite(lambda: load(tflite_file), ready[tflite_file].load),
        }


def _prepared(path: Path, cache: Path) -> Prepared:
    return prepared.prepare(path, digest=find(path).digest, cache=cache)


def _medians(pairs: list[tuple[float, float]]) -> dict[str, float]:
    load_s, pause_s = map(statistics.median, zip(*pairs, strict=True))
    return {"load_ms": round(1e3 * load_s, 1), "longest_pause_ms": round(1e3 * pause_s, 1)}


def _tflite(plain: Callable[[], Model], packed: Callable[[], Model]) -> dict[str, Any]:
    ways = {"plain": plain, "prepared": packed}
    loads = medians(ways, rounds=ROUNDS, batch=1)
    with plain() as one, packed() as other:
        inputs = example(one.inputs)
        runs = medians({"plain": lambda: one(inputs), "prepared": lambda: other(inputs)}, rounds=ROUNDS, batch=50)
        second = {name: round(second_version_bytes(way, inputs) / 1e6, 2) for name, way in ways.items()}
    return {
        "load": round(loads["prepared"] / loads["plain"], 3),
        "run": round(runs["prepared"] / runs["plain"], 3),
        "second_version_mb": second,
    }


def _nothing() -> None:
    threading.Event().wait(_SETTLE_S)


def _paused(live: Model, load_one: Callable[[], Model | None]) -> tuple[float, float]:
    """Seconds of the load, and of the longest pause between two answers of `live`, which another thread asks throughout."""
    stop, longest = threading.Event(), [0.0]

    def ask() -> None:
        sample = {"x": np.zeros((1, 64), np.float32)}
        last = time.perf_counter()
        while not stop.is_set():
            live(sample)
            now = time.perf_counter()
            longest[0], last = max(longest[0], now - last), now

    asking = threading.Thread(target=ask)
    asking.start()
    stop.wait(_SETTLE_S)
    began = time.perf_counter()
    loaded = load_one()
    seconds = time.perf_counter() - began
    stop.set()
    asking.join()
    if loaded is not None:
        loaded.close()
    return seconds, longest[0]


def _models(scratch: Path) -> tuple[Path, Path]:
    onnx_file, tflite_file = _dense(scratch / "large.onnx", _WIDTHS), scratch / "large.tflite"
    maker = TfliteMaker(onnx.load(onnx_file), batches=lambda: iter([{"x": np.zeros((1, _WIDTHS[0]), np.float32)}]))
    tflite_file.write_bytes(maker.apply(TFLITE[0]))
    return onnx_file, tflite_file


def _dense(path: Path, widths: tuple[int, ...]) -> Path:
    chance, nodes, weights, last = np.random.default_rng(0), [], [], "x"
    for at, shape in enumerate(itertools.pairwise(widths)):
        weights.append(numpy_helper.from_array(chance.normal(0, 0.02, shape).astype(np.float32), f"w{at}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{at}"], [f"sum{at}"]))
        last = f"active{at}"
        nodes.append(helper.make_node("Relu", [f"sum{at}"], [last]))
    given, answer = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])
        for name, width in (("x", widths[0]), (last, widths[-1]))
    )
    graph = helper.make_graph(nodes, "dense", [given], [answer], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path
