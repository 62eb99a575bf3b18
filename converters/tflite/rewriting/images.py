"""Windows and sizes that TFLite does not know: resizing by any rule, dilated pooling, pooling by norms.

Resizing an axis is a product with a matrix, whatever the rule: onnxruntime is asked for that matrix, by resizing the unit
matrix.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, Final

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from converters.tflite.rewriting import volumes
from converters.tflite.rewriting.site import Array, NotKnown, Site

_RULES_OF_TFLITE: Final = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
_NEWER: Final = 13
"""An operator set whose Resize says all that older ones do."""

_VOLUME: Final = 5
"""Axes of a tensor with samples, channels and three spatial axes."""

_MOST_OFFSETS: Final = 64
"""A dilated window of more elements would be as many slices."""


def resize(site: Site) -> str | None:
    """Resize where TFLite's own operations answer otherwise: one product with a matrix for each axis that changes."""
    shape, result = site.shape(), site.result_shape()
    if not _is_foreign(site, shape, result):
        return None
    if site.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        return None
    found = site.input()
    for axis in range(len(shape)):
        matrix = _matrix(site, axis, shape[axis], result[axis])
        if matrix.shape[0] != matrix.shape[1] or not np.array_equal(matrix, np.eye(len(matrix))):
            found = _multiplied(site, found, axis, matrix)
    return found


def _is_foreign(site: Site, shape: tuple[int, ...], result: tuple[int, ...]) -> bool:
    """Whether the emitter's own form of it answers otherwise."""
    scheme, mode = _scheme(site), site.attribute("mode", "nearest")
    if mode == "cubic" or site.attribute("antialias", 0) or scheme not in _RULES_OF_TFLITE:
        return True
    if len(shape) not in (3, 4) or shape[:2] != result[:2]:
        return True
    if mode == "nearest":
        return False
    if scheme == "pytorch_half_pixel" and 1 in result[2:]:
        return True
    scales = [_scale(site, axis) for axis in range(2, len(shape))]
    exact = [
        scale is None or math.isclose(scale, after / before, rel_tol=1e-6)
        for scale, before, after in zip(scales, shape[2:], result[2:], strict=True)
    ]
    return scheme != "align_corners" and not all(exact)


def _is_older(site: Site) -> bool:
    """Resize 10 and Upsample, which know one rule: asymmetric coordinates, and the nearest one below."""
    return site.node.op_type == "Upsample" or site.opset < 11


def _scheme(site: Site) -> str:
    return str(site.attribute("coordinate_transformation_mode", "asymmetric" if _is_older(site) else "half_pixel"))


def _scale(site: Site, axis: int) -> float | None:
    """The scale that the node names for an axis; None where it names sizes."""
    index = 1 if _is_older(site) else 2
    given = site.needed(index) if site.has(index) else np.array(site.attribute("scales", []))
    if not given.size:
        return None
    axes = [each % len(site.shape()) for each in site.attribute("axes", range(len(site.shape())))]
    return float(given[axes.index(axis)]) if axis in axes else 1.0


def _matrix(site: Site, axis: int, before: int, after: int) -> Array:
    """float32[before, after]: what onnxruntime makes of one axis."""
    given = {each.name: helper.get_attribute_value(each) for each in site.node.attribute}
    attributes = {name: value for name, value in given.items() if name not in ("axes", "scales")}
    if _is_older(site):
        attributes |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    scale, crop = _scale(site, axis), _crop(site, axis)
    last: dict[str, Array] = {"roi": np.array([0, 0, 0, crop[0], 1, 1, 1, crop[1]], np.float32)}
    if scale is None:
        last["sizes"] = np.array([before, 1, 1, after], np.int64)
    else:
        last["scales"] = np.array([1, 1, 1, scale], np.float32)
    names = ["x", "roi", "" if scale is None else "scales", *(["sizes"] if scale is None else [])]
    return _ask(helper.make_node("Resize", names, ["y"], **attributes), last, before, max(site.opset, _NEWER))[:, 0, 0, :]


def _crop(site: Site, axis: int) -> tuple[float, float]:
    if _scheme(site) != "tf_crop_and_resize":
        return 0.0, 1.0
    if site.attribute("extrapolation_value", 0.0):
        raise NotKnown
    roi = site.needed(1)
    axes = [each % len(site.shape()) for each in site.attribute("axes", range(len(site.shape())))]
    if axis not in axes:
        return 0.0, 1.0
    at = axes.index(axis)
    return float(roi[at]), float(roi[at + len(axes)])


def _ask(node: Any, constants: dict[str, Array], size: int, opset: int) -> Array:  # noqa: ANN401  # protobuf has no types
    """The node's answer to the unit matrix, as an image of one line for each of its rows."""
    graph = helper.make_graph(
        [node],
        "axis",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [size, 1, 1, size])],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    answer: Array = session.run(["y"], {"x": np.eye(size, dtype=np.float32).reshape(size, 1, 1, size)})[0]
    return answer


def _multiplied(site: Site, name: str, axis: int, matrix: Array) -> str:
    """The product with the matrix along one axis, which is last for as long."""
    rank = len(site.shape())
    order = [*(each for each in range(rank) if each != axis), axis]
    if axis == rank - 1:
        return site.add("MatMul", name, site.stored(matrix.astype(np.float32)))
    turned = site.add("MatMul", site.add("Transpose", name, perm=order), site.stored(matrix.astype(np.float32)))
    return site.add("Transpose", turned, perm=[order.index(each) for each in range(rank)])


def pool(site: Site) -> str | None:
    """MaxPool and AveragePool over three spatial axes, or with dilated windows."""
    return (volumes.pool(site) if len(site.shape()) == _VOLUME else None) or _dilated_pool(site)


def _dilated_pool(site: Site) -> str | None:
    """The largest, or the mean, of one slice for each element of a window."""
    kernel, rank = list(site.attribute("kernel_shape")), len(site.shape())
    dilations = list(site.attribute("dilations") or [1] * len(kernel))
    if all(step == 1 for step in dilations) or math.prod(kernel) > _MOST_OFFSETS or site.has_output(1):
        return None
    if site.attribute("auto_pad", "NOTSET") != "NOTSET":
        return None
    largest = site.node.op_type == "MaxPool"
    pads, strides = list(site.attribute("pads") or [0] * 2 * len(kernel)), site.attribute("strides") or [1] * len(kernel)
    if not largest and any(pads):
        return None
    result = site.result_shape()[2:]
    source = _with_border(site, pads, strides, kernel, dilations) if largest else site.input()
    slices = []
    for offset in itertools.product(*map(range, kernel)):
        starts = [at * step for at, step in zip(offset, dilations, strict=True)]
        ends = [start + (count - 1) * step + 1 for start, count, step in zip(starts, result, strides, strict=True)]
        slices.append(site.add("Slice", source, *map(site.whole, (starts, ends, range(2, rank), strides))))
    return site.add("Max" if largest else "Mean", *slices)


def _with_border(site: Site, pads: list[int], strides: list[int], kernel: list[int], dilations: list[int]) -> str:
    """The image with ONNX's border, which also reaches as far as the last window."""
    count, sizes, result = len(kernel), site.shape()[2:], site.result_shape()[2:]
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    after = [
        max(0, (result[at] - 1) * strides[at] + reach[at] - sizes[at] - pads[at])
        for at in range(count)
    ]  # fmt: skip
    if not any(pads[:count]) and not any(after):
        return site.input()
    lowest = float(np.finfo(np.float32).min)
    return site.add("Pad", site.input(), site.whole([0, 0, *pads[:count], 0, 0, *after]), site.number(lowest))


def lp_pool(site: Site) -> str:
    """LpPool: the root of a mean of powers, times the number of elements."""
    power, kernel = site.attribute("p", 2), list(site.attribute("kernel_shape"))
    kept = {each.name: helper.get_attribute_value(each) for each in site.node.attribute if each.name != "p"}
    powers = site.add("Pow", site.add("Abs", site.input()), site.number(power))
    means = site.add("AveragePool", powers, count_include_pad=1, **kept)
    sums = site.add("Mul", means, site.number(math.prod(kernel)))
    return site.add("Pow", sums, site.number(1 / power))


RULES: Final = {"AveragePool": pool, "LpPool": lp_pool, "MaxPool": pool, "Resize": resize, "Upsample": resize}
