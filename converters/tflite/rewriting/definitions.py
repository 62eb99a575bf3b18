"""Operators that ONNX itself defines by others: the body that its own schema gives takes the node's place."""

from __future__ import annotations

from typing import Any, Final

import onnx
from onnx import defs

from converters.tflite.rewriting.site import NotKnown, Site

_DEFINED: Final = ("Attention", "CenterCropPad", "MeanVarianceNormalization", "RotaryEmbedding")


def defined(site: Site) -> list[str] | None:
    """The schema's own body, its tensors renamed so that several nodes may have it. None where this node has no body."""
    body = _body(site)
    if body is None:
        return None
    names = dict(zip(body.input, [*site.node.input, *[""] * len(body.input)], strict=False))
    schema = defs.get_schema(site.node.op_type, site.opset)
    given = {name: each.default_value for name, each in schema.attributes.items() if each.default_value.name}
    given |= {attribute.name: attribute for attribute in site.node.attribute}
    stem = next(name for name in site.node.output if name)
    for node in body.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = f"{stem}/{node.name or node.output[0]}"
        for at, name in enumerate(node.input):
            copy.input[at] = names.get(name, "") if name else ""
        for at, name in enumerate(node.output):
            names[name] = f"{stem}/{name}" if name else ""
            copy.output[at] = names[name]
        _fill_in(copy, given)
        site.nodes.append(copy)
    return [names.get(name, "") for name in body.output]


def _fill_in(node: onnx.NodeProto, given: dict[str, onnx.AttributeProto]) -> None:
    """Attributes of the body that stand for the node's own."""
    for at in reversed(range(len(node.attribute))):
        wanted = node.attribute[at].ref_attr_name
        if not wanted:
            continue
        name = node.attribute[at].name
        del node.attribute[at]
        if wanted in given:
            node.attribute.append(given[wanted])
            node.attribute[-1].name = name


def _body(site: Site) -> onnx.FunctionProto | None:
    schema: Any = defs.get_schema(site.node.op_type, site.opset)  # its methods for functions are missing in onnx's stubs
    versions = [each for each in schema.function_opset_versions if each <= site.opset]
    if versions:
        found = onnx.FunctionProto()
        found.ParseFromString(schema.get_function_with_opset_version(max(versions)))
        return found
    versions = [each for each in schema.context_dependent_function_opset_versions if each <= site.opset]
    if not versions:
        return None
    types = [_type(site, name) for name in site.node.input]
    found = onnx.FunctionProto()
    found.ParseFromString(
        schema.get_context_dependent_function_with_opset_version(max(versions), site.node.SerializeToString(), types)
    )
    return found if found.node else None


def _type(site: Site, name: str) -> bytes:
    if not name:
        return onnx.TypeProto().SerializeToString()
    if name in site.known.types:
        return bytes(site.known.types[name].SerializeToString())
    values = site.known.constant(name)
    if values is None:
        raise NotKnown
    kind = onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
    return bytes(onnx.helper.make_tensor_type_proto(kind, values.shape).SerializeToString())


RULES: Final = dict.fromkeys(_DEFINED, defined)
