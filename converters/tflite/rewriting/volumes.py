"""Windows over three spatial axes, as in video and tomography: two of them at a time, and then the third."""

from __future__ import annotations

import math
from typing import Any, Final

from converters.tflite.rewriting.site import Site

_RANK: Final = 5


def conv(site: Site) -> str | None:
    """A sum of convolutions of images, one for each step of the kernel's depth; samples and depth count as one axis."""
    if len(site.shape()) != _RANK or site.attribute("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    weights, (count, channels, _, height, width) = site.needed(1), site.shape()
    _, results, *after = site.result_shape()
    strides, dilations = (list(site.attribute(name, [1] * 3)) for name in ("strides", "dilations"))
    pads = list(site.attribute("pads", [0] * 6))
    image: dict[str, Any] = {"strides": strides[1:], "dilations": dilations[1:], "pads": [*pads[1:3], *pads[4:]]}
    image["group"] = site.attribute("group", 1)
    deep = _padded(site, site.add("Transpose", site.input(), perm=[0, 2, 1, 3, 4]), pads[0], pads[3])
    parts = []
    for at in range(weights.shape[2]):
        start = at * dilations[0]
        part = site.cut(deep, 1, start, start + (after[0] - 1) * strides[0] + 1, strides[0])
        flat = site.reshape(part, [count * after[0], channels, height, width])
        bias = [site.input(2)] if at == 0 and site.has(2) else []
        parts.append(site.add("Conv", flat, site.stored(weights[:, :, at]), *bias, **image))
    total = parts[0] if len(parts) == 1 else site.add("Sum", *parts)
    return site.add("Transpose", site.reshape(total, [count, after[0], results, *after[1:]]), perm=[0, 2, 1, 3, 4])


def _padded(site: Site, name: str, before: int, after: int) -> str:
    """Zeros around the depth, which is the second axis here."""
    if not before and not after:
        return name
    pads = [0, before, 0, 0, 0, 0, after, 0, 0, 0]
    return site.add("Pad", name, site.whole(pads)) if site.opset >= 11 else site.add("Pad", name, pads=pads)


def pool(site: Site) -> str | None:
    """The largest or the mean of heights and widths, and then of depths."""
    given = {name: site.attribute(name) for name in ("auto_pad", "ceil_mode", "dilations")}
    plain = given["auto_pad"] in (None, "NOTSET") and not given["ceil_mode"] and set(given["dilations"] or [1]) == {1}
    kernel = list(site.attribute("kernel_shape"))
    strides, pads = list(site.attribute("strides", [1] * 3)), list(site.attribute("pads", [0] * 6))
    more = {} if site.node.op_type == "MaxPool" else {"count_include_pad": site.attribute("count_include_pad", 0)}
    if not plain or site.has_output(1) or (any(pads) and more.get("count_include_pad") == 0):
        return None
    count, channels, depth, height, width = site.shape()
    _, _, *after = site.result_shape()
    flat = site.reshape(site.input(), [count, channels * depth, height, width])
    flat = site.add(
        site.node.op_type, flat, kernel_shape=kernel[1:], strides=strides[1:], pads=[*pads[1:3], *pads[4:]], **more
    )  # fmt: skip
    deep = site.reshape(flat, [count, channels, depth, math.prod(after[1:])])
    deep = site.add(
        site.node.op_type, deep, kernel_shape=[kernel[0], 1], strides=[strides[0], 1], pads=[pads[0], 0, pads[3], 0], **more
    )  # fmt: skip
    return site.reshape(deep, [count, channels, *after])


RULES: Final = {"Conv": conv}
