"""What the runtime costs beside onnxruntime itself, and what tuning and preparing gain (issue 3's figures).

Every ratio is to onnxruntime as it comes, measured in the same run in turn: `session.run(None, …)` for the call, default
options for latency and CPU time, a plain load for prepared ones. What tuning chooses here is how the float file is run;
`bench.tuned` has what a user gets, who converts it first.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import runtime
from bench import tuned
from bench.interleaved import medians, ratios
from runtime import sources
from runtime.engine import Array
from runtime.example_inputs import example
from runtime.hosting import memory
from runtime.shadowing.shadow import Shadow
from runtime.tuning import prepared
from runtime.tuning.record import Objective

ROOT: Final = Path(__file__).parents[1]
RESNET: Final = ROOT.parent / "shared" / "data" / "resnet8_cifar10" / "float.onnx"
DIGITS: Final = ROOT / "examples" / "digits" / "digits-v1.onnx"

LOADS: Final = 9
SWAPS: Final = 1000
FIRST_SWAPS: Final = 5
"""Before memory is first looked at: the first versions fill what is kept for ever."""
ASKERS: Final = 3
SHADOW_ROUNDS: Final = 11
SHADOW_ROUND_S: Final = 1.0


def measure() -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="edgeward-bench-") as scratch:
        made = Path(scratch)
        mobilenet, encoder, mlp = _mobilenet(made / "mobilenet.onnx"), _encoder(made / "encoder.onnx"), _mlp(made / "mlp.onnx")
        small = RESNET if RESNET.is_file() else DIGITS
        return {
            "call": _call(_mlp(made / "tiny.onnx", features=16, hidden=16)),
            "swaps": swaps(made),
            "tuned": {path.stem: tuned.alone(path, made) for path in (mobilenet, encoder, small, mlp)},
            "tuned_for_a_busy_device": {mobilenet.stem: tuned.alone(mobilenet, made, Objective(condition="busy"))},
            "shadow": {path.stem: _shadowed(path) for path in (mlp, mobilenet)},
            "prepared": {path.stem: _prepared(path, made / "cache") for path in (encoder, mobilenet)},
        }


def _call(path: Path) -> dict[str, float]:
    """Microseconds of onnxruntime's own call, and ours ÷ that: the model alone, and through the host with its counting."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    model = runtime.load(path)
    host = runtime.ModelHost()
    host.activate(runtime.ModelIdentity("tiny", "1.0.0", "sha256:" + "0" * 64, "float"), runtime.load(path))
    inputs = example(model.inputs)
    subjects = {
        "session.run": lambda: session.run(None, inputs),
        "model": lambda: model(inputs),
        "host.infer": lambda: host.infer("tiny", inputs),
    }
    times = medians(subjects, rounds=300, batch=50)
    host.deactivate("tiny")
    return {"session.run µs": round(times["session.run"] * 1e6, 2), **ratios(times, to="session.run")}


def swaps(scratch: Path, *, count: int = SWAPS) -> dict[str, object]:
    """Versions of 4 MB that change while threads ask: what failed or was mixed, and anonymous memory after ÷ after the first.

    Version n answers the number n % 5 in every element.
    """
    files = [_answering(scratch / f"version{number}.onnx", number) for number in range(5)]
    host, inputs = runtime.ModelHost(), {"x": np.zeros((1, 1024), np.float32)}
    wrong: Counter[str] = Counter()
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            try:
                answer = host.infer("model", inputs)
            except runtime.RuntimeFailure:
                wrong["failed"] += 1
            else:
                wrong["mixed"] += int(answer.outputs["y"][0, 0]) != int(answer.identity.version) % 5
                wrong["answered"] += 1

    def swap(first: int, last: int) -> int:
        for number in range(first, last):
            identity = runtime.ModelIdentity("model", str(number), "sha256:" + "0" * 64, "float")
            host.activate(identity, runtime.load(files[number % 5], threads=1))
        memory.give_back()
        return memory.anonymous_bytes()

    swap(0, 1)
    askers = [threading.Thread(target=ask) for _ in range(ASKERS)]
    for asker in askers:
        asker.start()
    taken = swap(1, 1 + FIRST_SWAPS), swap(1 + FIRST_SWAPS, 1 + FIRST_SWAPS + count)
    stop.set()
    for asker in askers:
        asker.join()
    host.deactivate("model")
    return {
        "swaps": count,
        **{each: wrong[each] for each in ("answered", "failed", "mixed")},
        "memory": round(taken[1] / taken[0], 3),
    }


def _answering(path: Path, number: int) -> Path:
    graph = _Graph(3)
    nothing = graph.node("Mul", graph.node("MatMul", "x", graph.weights(1024, 1024)), graph.scalar(0))
    graph.node("Add", nothing, graph.scalar(number), output="y")
    return graph.save(path, ["batch", 1024])


def _shadowed(path: Path) -> dict[str, object]:
    """The median latency of live requests while a shadow with its default allowance runs ÷ without one, in turn."""
    host, source = runtime.ModelHost(), sources.find(path)
    name = source.identity.model
    host.activate(source.identity, source.load(threads=1))
    inputs = example(host.describe(name).inputs)
    shadow = Shadow(host, name, source)
    shadow.start()
    _until(lambda: shadow.record().state != "loading")
    found: dict[str, list[float]] = {"without": [], "with": []}
    for _ in range(SHADOW_ROUNDS):
        host.observe(name, None)
        _until(lambda: "waiting" not in shadow.record().requests)
        found["without"].append(_live_p50(host, name, inputs))
        host.observe(name, shadow)
        found["with"].append(_live_p50(host, name, inputs))
    shadow.stop()
    host.deactivate(name)
    record = shadow.record()
    each = [with_ / without for with_, without in zip(found["with"], found["without"], strict=True)]
    return {
        "live p50 with ÷ without": round(statistics.median(each), 3),
        "compared": record.requests.get("compared", 0),
        "CPU share": round(record.cpu_share, 3),
    }


def _live_p50(host: runtime.ModelHost, name: str, inputs: dict[str, Array]) -> float:
    seconds, started = [], time.perf_counter()
    while time.perf_counter() - started < SHADOW_ROUND_S:
        began = time.perf_counter()
        host.infer(name, inputs)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        threading.Event().wait(0.01)


def _prepared(path: Path, cache: Path) -> dict[str, object]:
    """Load time, anonymous memory of a second version, and run time, each ÷ those of the plain file."""
    digest = sources.find(path).identity.manifest
    ways: dict[str, Callable[[], runtime.Model]] = {"plain": partial(runtime.load, path, threads=1)}
    for name, packed in (("packed", True), ("unpacked", False)):
        made = prepared.prepare(path, digest=digest, cache=cache, packed=packed)
        ways[name] = partial(made.load, threads=1)
    loads = medians(ways, rounds=LOADS, batch=1)
    models = {name: load() for name, load in ways.items()}
    inputs = example(models["plain"].inputs)
    runs = medians({name: partial(model, inputs) for name, model in models.items()}, rounds=LOADS, batch=3)
    memory = {name: second_version_bytes(load, inputs) for name, load in ways.items()}
    return {
        "load": ratios(loads, to="plain"),
        "anonymous memory of a second version": ratios(memory, to="plain"),
        "run": ratios(runs, to="plain"),
    }


def second_version_bytes(load: Callable[[], runtime.Model], inputs: dict[str, Array]) -> float:
    """Anonymous bytes that one more version takes, after it ran once."""
    gc.collect()
    memory.give_back()
    before = memory.anonymous_bytes()
    model = load()
    model(inputs)
    memory.give_back()
    taken = memory.anonymous_bytes() - before
    model.close()
    return float(max(taken, 1))


class _Graph:
    """An ONNX graph in the making, with random weights."""

    def __init__(self, seed: int) -> None:
        self._chance = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, NDArray[np.generic]] = {}

    def weights(self, *shape: int, fan_in: int | None = None) -> str:
        scale = 1 / np.sqrt(fan_in or shape[0])
        return self.constant((self._chance.standard_normal(shape, np.float32) * scale).astype(np.float32))

    def constant(self, value: NDArray[np.generic]) -> str:
        name = f"constant{len(self._weights)}"
        self._weights[name] = value
        return name

    def scalar(self, value: float) -> str:
        return self.constant(np.array(value, np.float32))

    def node(self, operator: str, *inputs: str, output: str | None = None, **attributes: int | list[int]) -> str:
        name = output or f"value{len(self._nodes)}"
        made = helper.make_node(operator, list(inputs), [name])
        made.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self._nodes.append(made)
        return name

    def save(self, path: Path, shape: list[int | str], kind: int = TensorProto.FLOAT) -> Path:
        """From `x` of this shape to `y`, whose shape the engine finds."""
        graph = helper.make_graph(
            self._nodes,
            path.stem,
            [helper.make_tensor_value_info("x", kind, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(value, name) for name, value in self._weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        path.write_bytes(onnx.shape_inference.infer_shapes(model).SerializeToString())
        return path


def _mlp(path: Path, *, features: int = 64, hidden: int = 128) -> Path:
    graph = _Graph(0)
    active = graph.node("Relu", graph.node("MatMul", "x", graph.weights(features, hidden)))
    graph.node("Softmax", graph.node("MatMul", active, graph.weights(hidden, 10)), output="y", axis=1)
    return graph.save(path, ["batch", features])


_INVERTED: Final = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""MobileNetV2's blocks: expansion, channels, repeats, stride of the first (Sandler et al., 2018, table 2)."""


def _mobilenet(path: Path) -> Path:
    """MobileNetV2: 224 × 224, 3.5 million weights, 0.3 billion multiplications."""
    graph = _Graph(1)
    bounds = graph.scalar(0), graph.scalar(6)

    def convolution(value: str, inputs: int, outputs: int, size: int, *, stride: int = 1, group: int = 1) -> str:
        kernel = graph.weights(outputs, inputs // group, size, size, fan_in=inputs // group * size * size)
        bias = graph.constant(np.zeros(outputs, np.float32))
        return graph.node("Conv", value, kernel, bias, strides=[stride, stride], pads=[size // 2] * 4, group=group)

    def active(value: str) -> str:
        return graph.node("Clip", value, *bounds)

    def block(value: str, inputs: int, outputs: int, expansion: int, stride: int) -> str:
        wide = inputs * expansion
        inner = active(convolution(value, inputs, wide, 1)) if expansion > 1 else value
        inner = active(convolution(inner, wide, wide, 3, stride=stride, group=wide))
        made = convolution(inner, wide, outputs, 1)
        return graph.node("Add", value, made) if stride == 1 and inputs == outputs else made

    value, channels = active(convolution("x", 3, 32, 3, stride=2)), 32
    for expansion, outputs, repeats, stride in _INVERTED:
        for at in range(repeats):
            value, channels = block(value, channels, outputs, expansion, stride if at == 0 else 1), outputs
    flat = graph.node("Flatten", graph.node("GlobalAveragePool", active(convolution(value, channels, 1280, 1))))
    graph.node("MatMul", flat, graph.weights(1280, 1000), output="y")
    return graph.save(path, ["batch", 3, 224, 224])


def _encoder(path: Path, *, layers: int = 6, width: int = 384, heads: int = 12, words: int = 30522, length: int = 128) -> Path:
    """A text encoder of MiniLM's size, as exporters write one: norms and GELU in many small operators."""
    graph = _Graph(2)
    apart = graph.constant(np.array([0, 0, heads, width // heads], np.int64))
    together = graph.constant(np.array([0, 0, width], np.int64))

    def dense(value: str, inputs: int, outputs: int) -> str:
        return graph.node("Add", graph.node("MatMul", value, graph.weights(inputs, outputs)), graph.weights(outputs))

    def norm(value: str) -> str:
        centred = graph.node("Sub", value, graph.node("ReduceMean", value, axes=[-1]))
        variance = graph.node("ReduceMean", graph.node("Pow", centred, graph.scalar(2)), axes=[-1])
        spread = graph.node("Sqrt", graph.node("Add", variance, graph.scalar(1e-12)))
        scaled = graph.node("Mul", graph.node("Div", centred, spread), graph.constant(np.ones(width, np.float32)))
        return graph.node("Add", scaled, graph.constant(np.zeros(width, np.float32)))

    def gelu(value: str) -> str:
        erf = graph.node("Erf", graph.node("Div", value, graph.scalar(2**0.5)))
        return graph.node("Mul", graph.node("Mul", value, graph.node("Add", erf, graph.scalar(1))), graph.scalar(0.5))

    def head(value: str, order: list[int]) -> str:
        return graph.node("Transpose", graph.node("Reshape", dense(value, width, width), apart), perm=order)

    value = norm(graph.node("Gather", graph.weights(words, width), "x"))
    for _ in range(layers):
        query, key, content = head(value, [0, 2, 1, 3]), head(value, [0, 2, 3, 1]), head(value, [0, 2, 1, 3])
        scores = graph.node("Div", graph.node("MatMul", query, key), graph.scalar((width / heads) ** 0.5))
        mixed = graph.node("MatMul", graph.node("Softmax", scores, axis=-1), content)
        joined = graph.node("Reshape", graph.node("Transpose", mixed, perm=[0, 2, 1, 3]), together)
        value = norm(graph.node("Add", dense(joined, width, width), value))
        value = norm(graph.node("Add", dense(gelu(dense(value, width, 4 * width)), 4 * width, width), value))
    graph.node("ReduceMean", value, output="y", axes=[1], keepdims=0)
    return graph.save(path, ["batch", length], TensorProto.INT64)
