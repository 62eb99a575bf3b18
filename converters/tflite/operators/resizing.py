"""Resize and Upsample of images. Nearest neighbours are picked by place where TFLite's rounding is another than ONNX's."""

from __future__ import annotations

from typing import Final

import numpy as np

from converters.tflite.emission import Call, Value
from converters.tflite.graph import Array, Options, Tensor
from converters.tflite.operators.registry import Table
from converters.tflite.operators.windows import image_layout

_LINEAR: Final[dict[str, Options]] = {
    "half_pixel": {"alignCorners": False, "halfPixelCenters": True},
    "pytorch_half_pixel": {"alignCorners": False, "halfPixelCenters": True},
    "align_corners": {"alignCorners": True, "halfPixelCenters": False},
    "asymmetric": {"alignCorners": False, "halfPixelCenters": False},
}


def resize(call: Call) -> Value:
    """Resize, Upsample: of height and width, by the rules that TFLite has; all others are products with matrices by now."""
    value, shape = call.value(), call.result_shape()
    layout = image_layout(call, value)
    tensor, stored = call.emission.stored(value, layout), shape.stored(layout)
    mode = call.attribute("mode", "nearest")
    if mode == "nearest":
        return call.result(_nearest(call, tensor, stored.sizes), layout)
    return call.result(_linear(call, tensor, stored.sizes), layout)


def _linear(call: Call, tensor: Tensor, sizes: tuple[int, ...]) -> Tensor:
    scheme = _scheme(call)
    if call.attribute("mode") != "linear" or call.attribute("antialias", 0) or scheme not in _LINEAR:
        raise call.unsupported(
            f"{call.attribute('mode')} by {scheme} needs constant scales or sizes, and no extrapolation value"
        )
    if call.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise call.unsupported("with keep_aspect_ratio_policy only the mode nearest has a form")
    _scale(call, tensor, sizes, 1)  # which must be known, for it was to decide that TFLite's rule is the one
    shape = tensor.shape.with_size(1, sizes[1]).with_size(2, sizes[2])
    return call.emission.add("RESIZE_BILINEAR", [tensor, call.emission.integers(sizes[1:3])], shape, **_LINEAR[scheme])


def _nearest(call: Call, tensor: Tensor, sizes: tuple[int, ...]) -> Tensor:
    before = tensor.shape.sizes
    wanted = [_places(call, tensor, sizes, at) for at in (1, 2)]
    for options in (_LINEAR["asymmetric"], _LINEAR["half_pixel"]):
        theirs = [_tflite_places(before[at], sizes[at], half=options["halfPixelCenters"]) for at in (1, 2)]
        if all(np.array_equal(mine, other) for mine, other in zip(wanted, theirs, strict=True)):
            shape = tensor.shape.with_size(1, sizes[1]).with_size(2, sizes[2])
            return call.emission.add(
                "RESIZE_NEAREST_NEIGHBOR", [tensor, call.emission.integers(sizes[1:3])], shape, **options
            )  # fmt: skip
    for at, places in zip((1, 2), wanted, strict=True):
        if not np.array_equal(places, np.arange(before[at])):
            shape = tensor.shape.with_size(at, sizes[at])
            where = call.emission.constant(places.astype(np.int32), "places")
            tensor = call.emission.add("GATHER", [tensor, where], shape, axis=at, batchDims=0)
    return tensor


def _places(call: Call, tensor: Tensor, sizes: tuple[int, ...], at: int) -> Array:
    """From which place along one axis ONNX takes each result."""
    before, after = tensor.shape.sizes[at], sizes[at]
    scale = np.float32(_scale(call, tensor, sizes, at))  # onnxruntime computes in float32, and places hang on its rounding
    results, scheme = np.arange(after, dtype=np.float32), _scheme(call)
    if scheme == "align_corners":
        where = results * np.float32(before - 1) / np.float32(max(1, after - 1))
    elif scheme == "asymmetric":
        where = results / scale
    elif scheme == "half_pixel" or (scheme == "pytorch_half_pixel" and after > 1):
        where = (results + np.float32(0.5)) / scale - np.float32(0.5)
    elif scheme == "pytorch_half_pixel":
        where = np.zeros(after, np.float32)
    else:
        raise call.unsupported(f"the coordinates {scheme} have no form")
    mode = call.attribute("nearest_mode", "round_prefer_floor" if call.node.op == "Resize" and call.opset > 10 else "floor")
    rounding = {
        "round_prefer_floor": np.ceil(where - 0.5),
        "round_prefer_ceil": np.floor(where + 0.5),
        "floor": np.floor(where),
        "ceil": np.ceil(where),
    }
    return np.asarray(np.clip(rounding[mode], 0, before - 1), np.int64)


def _tflite_places(before: int, after: int, *, half: bool) -> Array:
    """From which place TFLite takes each result."""
    where = (np.arange(after, dtype=np.float32) + np.float32(0.5 if half else 0.0)) * np.float32(before / after)
    return np.asarray(np.clip(np.floor(where), 0, before - 1), np.int64)


def _scheme(call: Call) -> str:
    default = "half_pixel" if call.node.op == "Resize" and call.opset > 10 else "asymmetric"
    return str(call.attribute("coordinate_transformation_mode", default))


def _scale(call: Call, tensor: Tensor, sizes: tuple[int, ...], at: int) -> float:
    """The scale that the node names, or that its sizes give. `at` is a stored axis: 1 height, 2 width."""
    index = 2 if call.node.op == "Resize" and call.opset > 10 else 1
    given = call.optional(index, "scales") if call.has(index) else np.array(call.attribute("scales", []), np.float32)
    if given is None or not given.size:
        return sizes[at] / tensor.shape.sizes[at]
    spatial = at if len(call.result_shape()) == 4 else at - 1
    axes = call.attribute("axes")
    if axes is not None:
        logical = spatial + 1
        return float(given[list(axes).index(logical)]) if logical in axes else 1.0
    return float(given[spatial + 1]) if spatial > 0 else 1.0


TABLE: Final[Table] = {"Resize": resize, "Upsample": resize}
