"""Small models and their data, made on the spot: good ones, and one for each way in which a model file can be bad.

All classifiers solve one task: `samples()` draws points around fixed class centres, and a classifier of any seed finds the
nearest centre, each with slightly other numbers. So two seeds give two good versions of a model whose answers differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

FEATURES = 64
CLASSES = 10
OPSET = 17
IR_VERSION = 9
"""What onnxruntime reads since 1.16."""


def centres(features: int = FEATURES, classes: int = CLASSES) -> NDArray[np.float32]:
    """The class centres, float32[classes, features]: the same in every run."""
    return np.random.default_rng(20240).normal(size=(classes, features)).astype(np.float32)


def samples(
    count: int, *, seed: int = 0, features: int = FEATURES, classes: int = CLASSES, spread: float = 2.0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """`count` points and their labels: float32[count, features], int64[count]."""
    chance = np.random.default_rng(seed)
    labels = chance.integers(0, classes, size=count).astype(np.int64)
    noise = chance.normal(scale=spread, size=(count, features))
    return (centres(features, classes)[labels] + noise).astype(np.float32), labels


def linear_classifier(
    path: Path,
    *,
    seed: int = 0,
    features: int = FEATURES,
    classes: int = CLASSES,
    input_name: str = "pixels",
    output_name: str = "scores",
    softmax: bool = True,
    damage: float = 0.0,
) -> Path:
    """A nearest-centre classifier: `pixels` float32[?, features] to `scores` float32[?, classes].

    `damage` is the share in [0, 1] of weights that are replaced by large noise.
    """
    weights, bias = linear_weights(seed, features, classes)
    nodes = [helper.make_node("Gemm", [input_name, "weights", "bias"], ["logits" if softmax else output_name], transB=1)]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["logits"], [output_name], axis=1))
    return _save(
        path,
        nodes,
        inputs=[_value(input_name, TensorProto.FLOAT, ["batch", features])],
        outputs=[_value(output_name, TensorProto.FLOAT, ["batch", classes])],
        initializers={"weights": _damaged(weights, damage, seed), "bias": bias},
    )


def hanging_classifier(path: Path, *, seed: int = 0) -> Path:
    """The linear classifier, which never answers where the first pixel of its first sample is above a million."""
    linear_classifier(path, seed=seed)
    model = onnx.load(path)
    turn = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Add", ["turned", "one"], ["turned_on"])],
        "turn",
        [_value("at", TensorProto.INT64, []), _value("go", TensorProto.BOOL, []), _value("turned", TensorProto.FLOAT, [])],
        [_value("go_on", TensorProto.BOOL, []), _value("turned_on", TensorProto.FLOAT, [])],
    )
    constants = {"first": np.zeros(2, np.int64), "limit": np.float32(1e6), "often": np.int64(2**62), "zero": np.int64(0),
                 "yes": np.bool_(1), "none": np.float32(0), "one": np.float32(1), "nothing": np.float32(0)}  # fmt: skip
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items())
    [output] = model.graph.output
    model.graph.node[-1].output[0] = "linear"
    model.graph.node.extend([
        helper.make_node("GatherND", ["pixels", "first"], ["pixel"]),
        helper.make_node("Greater", ["pixel", "limit"], ["hangs"]),
        helper.make_node("Where", ["hangs", "often", "zero"], ["turns"]),
        helper.make_node("Loop", ["turns", "yes", "none"], ["after"], body=turn),
        helper.make_node("Mul", ["after", "nothing"], ["zeros"]),
        helper.make_node("Add", ["linear", "zeros"], [output.name]),
    ])  # fmt: skip
    onnx.save(model, path)
    return path


def mlp_classifier(
    path: Path, *, seed: int = 0, features: int = FEATURES, hidden: int = 64, classes: int = CLASSES, damage: float = 0.0
) -> Path:
    """The same task through a hidden layer with ReLU: Gemm, Relu, Gemm, Softmax. `pixels` to `scores`."""
    projection = np.linalg.qr(np.random.default_rng(7).normal(size=(max(hidden, features), features)))[0][:hidden]
    mirrored = np.concatenate([projection, -projection]).astype(np.float32)
    weights, bias = linear_weights(seed, features, classes)
    second = np.concatenate([weights @ projection.T, -weights @ projection.T], axis=1).astype(np.float32)
    nodes = [
        helper.make_node("Gemm", ["pixels", "weights1", "bias1"], ["hidden"], transB=1),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("Gemm", ["active", "weights2", "bias2"], ["logits"], transB=1),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=1),
    ]
    return _save(
        path,
        nodes,
        inputs=[_value("pixels", TensorProto.FLOAT, ["batch", features])],
        outputs=[_value("scores", TensorProto.FLOAT, ["batch", classes])],
        initializers={
            "weights1": _damaged(mirrored, damage, seed),
            "bias1": np.zeros(len(mirrored), np.float32),
            "weights2": _damaged(second, damage, seed + 1),
            "bias2": bias,
        },
    )


def masked_encoder(path: Path, *, keeps_to_mask: bool = True, mask: str = "attention_mask") -> Path:
    """Words into vectors: `input_ids` and a mask, int64[?, ?], to `words` float32[?, ?, 8] and their mean `sentence` [?, 8].

    One that does not keep to its mask counts every word, padding too.
    """
    table = np.random.default_rng(7).normal(size=(50, 8)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["words"]),
        helper.make_node("Cast", [mask], ["seen"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["seen", "last"], ["weights"]),
        helper.make_node("Mul", ["words", "weights"], ["kept"]),
        helper.make_node("ReduceSum", ["kept" if keeps_to_mask else "words", "middle"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["weights", "middle"], ["count"], keepdims=0),
        helper.make_node("Div", ["sum", "count"], ["sentence"]),
    ]
    inputs = [_value(name, TensorProto.INT64, ("N", "S")) for name in ("input_ids", mask)]
    outputs = [_value("words", TensorProto.FLOAT, ("N", "S", 8)), _value("sentence", TensorProto.FLOAT, ("N", 8))]
    axes = {"last": np.array([2]), "middle": np.array([1])}
    return _save(path, nodes, inputs=inputs, outputs=outputs, initializers={"table": table, **axes})


def constant(path: Path, value: float, *, features: int = FEATURES, classes: int = CLASSES) -> Path:
    """Answers `value` in every element of `scores`, whatever `pixels` says: shows which version answered."""
    nodes = [
        helper.make_node("MatMul", ["pixels", "zeros"], ["nothing"]),
        helper.make_node("Add", ["nothing", "value"], ["scores"]),
    ]
    return _save(
        path,
        nodes,
        inputs=[_value("pixels", TensorProto.FLOAT, ["batch", features])],
        outputs=[_value("scores", TensorProto.FLOAT, ["batch", classes])],
        initializers={"zeros": np.zeros((features, classes), np.float32), "value": np.array([value], np.float32)},
    )


def not_a_number(path: Path, *, features: int = FEATURES, classes: int = CLASSES) -> Path:
    """Loads well, and answers NaN."""
    return constant(path, float("nan"), features=features, classes=classes)


def identity(path: Path, elem_type: int = TensorProto.FLOAT, shape: Sequence[int | str | None] = ("batch", 4)) -> Path:
    """`x` to `y`, unchanged, of any ONNX element type and shape."""
    return _save(
        path,
        [helper.make_node("Identity", ["x"], ["y"])],
        inputs=[_value("x", elem_type, shape)],
        outputs=[_value("y", elem_type, shape)],
        initializers={},
    )


def picked(path: Path) -> Path:
    """A vector of numbers by their places, `[count]` of INT64 each up to 9; another place is an error in the run."""
    return _save(
        path,
        [helper.make_node("Gather", ["numbers", "places"], ["picked"])],
        inputs=[_value("places", TensorProto.INT64, ["count"])],
        outputs=[_value("picked", TensorProto.FLOAT, ["count"])],
        initializers={"numbers": np.arange(10, dtype=np.float32) ** 2},
    )


def nonzero(path: Path) -> Path:
    """The places of the elements that are not 0: how many there are hangs on the values."""
    return _save(
        path,
        [helper.make_node("NonZero", ["x"], ["places"])],
        inputs=[_value("x", TensorProto.FLOAT, ["count"])],
        outputs=[_value("places", TensorProto.INT64, [1, None])],
        initializers={},
    )


def two_inputs(path: Path) -> Path:
    """`left` and `right` float32[?, 2] to `total` float32[?, 2] and `largest` int64[?]."""
    nodes = [
        helper.make_node("Add", ["left", "right"], ["total"]),
        helper.make_node("ArgMax", ["total"], ["largest"], axis=1, keepdims=0),
    ]
    return _save(
        path,
        nodes,
        inputs=[_value("left", TensorProto.FLOAT, ["batch", 2]), _value("right", TensorProto.FLOAT, ["batch", 2])],
        outputs=[_value("total", TensorProto.FLOAT, ["batch", 2]), _value("largest", TensorProto.INT64, ["batch"])],
        initializers={},
    )


def busy(path: Path, *, size: int = 512, rounds: int = 20) -> Path:
    """Multiplies `x` float32[size, size] by itself again and again: slow on purpose, by about size³ × rounds operations."""
    nodes = []
    before = "x"
    for at in range(rounds):
        nodes += [
            helper.make_node("MatMul", [before, "x"], [f"product{at}"]),
            helper.make_node("Tanh", [f"product{at}"], [f"round{at}"]),
        ]
        before = f"round{at}"
    nodes.append(helper.make_node("Identity", [before], ["y"]))
    return _save(
        path,
        nodes,
        inputs=[_value("x", TensorProto.FLOAT, [size, size])],
        outputs=[_value("y", TensorProto.FLOAT, [size, size])],
        initializers={},
    )


def hungry(path: Path, *, megabytes: int) -> Path:
    """Small as a file; every run fills a tensor of so many MiB and answers its sum."""
    nodes = [
        helper.make_node(
            "ConstantOfShape", ["shape"], ["filled"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])
        ),
        helper.make_node("Add", ["filled", "x"], ["shifted"]),
        helper.make_node("Exp", ["shifted"], ["grown"]),
        helper.make_node("ReduceMean", ["grown"], ["y"], keepdims=1),
    ]
    return _save(
        path,
        nodes,
        inputs=[_value("x", TensorProto.FLOAT, [1])],
        outputs=[_value("y", TensorProto.FLOAT, [1])],
        initializers={"shape": np.array([megabytes * 1024 * 1024 // 4], np.int64)},
    )


def custom_operator(path: Path) -> Path:
    """Uses an operator of a domain that no engine has."""
    return _save(
        path,
        [helper.make_node("Launch", ["x"], ["y"], domain="com.example.custom")],
        inputs=[_value("x", TensorProto.FLOAT, ["batch", 4])],
        outputs=[_value("y", TensorProto.FLOAT, ["batch", 4])],
        initializers={},
        domains=("com.example.custom",),
        check=False,
    )


def external_data(path: Path, location: str, *, write: bool = True) -> Path:
    """A classifier whose weights stand in the file `location` beside it, or wherever `location` points."""
    linear_classifier(path)
    model = onnx.load(path)
    tensor = next(each for each in model.graph.initializer if each.name == "weights")
    content = tensor.raw_data
    if write:
        (path.parent / location).write_bytes(content)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", location), ("offset", "0"), ("length", str(len(content)))):
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    return path


def truncated(source: Path, path: Path, *, keep: float = 0.5) -> Path:
    """The first share `keep` of a file."""
    content = source.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    return path


def write_golden(
    path: Path,
    inputs: Mapping[str, NDArray[np.generic]],
    outputs: Mapping[str, NDArray[np.generic]],
    labels: NDArray[np.int64] | None = None,
) -> Path:
    """A golden file as `fleet_protocol.manifest.Golden` describes it."""
    arrays = {f"input/{name}": value for name, value in inputs.items()}
    arrays |= {f"output/{name}": value for name, value in outputs.items()}
    if labels is not None:
        arrays["label"] = labels
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    return path


def scores(inputs: NDArray[np.float32], *, seed: int = 0, classes: int = CLASSES) -> NDArray[np.float32]:
    """What `linear_classifier(seed=seed)` answers, computed by numpy: float32[samples, classes]."""
    weights, bias = linear_weights(seed, inputs.shape[1], classes)
    logits = inputs @ weights.T + bias
    grown = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(grown / grown.sum(axis=1, keepdims=True), np.float32)


def linear_golden(path: Path, *, count: int = 64, seed: int = 0, labels: bool = True) -> Path:
    """Golden inputs and outputs of `linear_classifier(seed=seed)`, with labels."""
    inputs, truth = samples(count, seed=99)
    return write_golden(path, {"pixels": inputs}, {"scores": scores(inputs, seed=seed)}, truth if labels else None)


def linear_weights(seed: int, features: int, classes: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Nearest centre as a linear map, soft enough that scores are not all 0 or 1, with a seed's own small noise."""
    points = centres(features, classes).astype(np.float64)
    noise = np.random.default_rng(seed).normal(scale=0.02, size=points.shape)
    softness = 8.0 / features
    weights = softness * (points + noise)
    bias = -0.5 * softness * (points**2).sum(axis=1)
    return weights.astype(np.float32), bias.astype(np.float32)


def _damaged(weights: NDArray[np.float32], share: float, seed: int) -> NDArray[np.float32]:
    chance = np.random.default_rng(seed + 1000)
    hit = chance.random(weights.shape) < share
    noise = chance.normal(scale=10 * float(np.abs(weights).max()), size=weights.shape)
    return np.where(hit, noise, weights).astype(np.float32)


def _value(name: str, elem_type: int, shape: Sequence[int | str | None]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, elem_type, list(shape))


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    *,
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    initializers: Mapping[str, NDArray[np.generic]],
    domains: Sequence[str] = (),
    check: bool = True,
) -> Path:
    tensors = [numpy_helper.from_array(value, name) for name, value in initializers.items()]
    graph = helper.make_graph(nodes, path.stem, inputs, outputs, tensors)
    opsets = [helper.make_opsetid("", OPSET), *(helper.make_opsetid(domain, 1) for domain in domains)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="edgeward-tests")
    if check:
        onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path
