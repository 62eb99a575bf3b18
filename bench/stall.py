"""How long live requests pause while a model of 20 MB is loaded beside them: TFLite, whose load holds the GIL, and ONNX.

Goal (issue 3): a load off the hot path. Medians of rounds in turn; `nothing` is the longest pause without any load, which the
machine's other work and the threads themselves make.
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

from converters.recipe import TFLITE
from converters.tflite.variants import TfliteMaker
from runtime import Model, load
from runtime.hosting.isolated import InChildren
from runtime.sources import find

ROUNDS: Final = 9
_SETTLE_S: Final = 0.1
_WIDTHS: Final = (64, 2200, 2200, 10)


def measure() -> dict[str, Any]:
    """Milliseconds: of each load, and of the longest pause between two answers meanwhile."""
    with tempfile.TemporaryDirectory(prefix="edgeward-bench-") as scratch:
        onnx_file, tflite_file = _models(Path(scratch))
        loads: dict[str, Callable[[], Model | None]] = {
            "nothing": _nothing,
            "onnx": lambda: load(onnx_file),
            "tflite": lambda: load(tflite_file),
            "tflite isolated": lambda: InChildren().open(find(tflite_file)),
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in loads}
        with load(_dense(Path(scratch) / "live.onnx", (64, 128, 10))) as live:
            for _ in range(ROUNDS):
                for name, each in loads.items():
                    found[name].append(_paused(live, each))
    return {
        name: {
            "load_ms": round(1e3 * statistics.median(seconds for seconds, _ in pairs), 1),
            "longest_pause_ms": round(1e3 * statistics.median(pause for _, pause in pairs), 1),
        }
        for name, pairs in found.items()
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
