"""Finds out which array of the data feeds which input of a model, when the names that frameworks give are no one's choice."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from converters.errors import DataRejected
from converters.sources.exchange import Samples


def match(names: Sequence[str], samples: Samples, what: str) -> dict[str, str]:
    """The array for each input: by name, or the only one for the only input. Raises `DataRejected`.

    The model is then named after the data: nobody chose `input_1`.
    """
    if all(name in samples for name in names):
        return {name: name for name in names}
    if len(names) == len(samples) == 1:
        return {names[0]: next(iter(samples))}
    held = ", ".join(repr(name) for name in samples) or "no arrays"
    raise DataRejected(
        f"{what} takes {', '.join(repr(name) for name in names)}, and the data holds {held}. Name one array after each input"
        + ("; with a single array beside `label`, its name is free." if len(names) == 1 else ".")
    )


def rename(model: onnx.ModelProto, names: dict[str, str]) -> None:
    """Give values of the main graph other names, in place. Names that are taken already are moved away."""
    wanted = {old: new for old, new in names.items() if old != new}
    taken = set(wanted.values())
    everything = {name for node in model.graph.node for name in (*node.input, *node.output)}
    everything |= {value.name for value in (*model.graph.input, *model.graph.output)}
    for name in taken & everything - set(wanted):
        wanted[name] = _free(name, everything | taken)
    for node in model.graph.node:
        for field in (node.input, node.output):
            for at, name in enumerate(field):
                field[at] = wanted.get(name, name)
    graph = model.graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = wanted.get(value.name, value.name)
    for tensor in graph.initializer:
        tensor.name = wanted.get(tensor.name, tensor.name)


def free_first_axis(model: onnx.ModelProto) -> None:
    """Call the free first axis of every input and output `batch`, in place: exporters number theirs."""
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].HasField("dim_value"):
            dims[0].dim_param = "batch"


def sort_nodes(model: onnx.ModelProto) -> None:
    """Put nodes and constants into the order in which the outputs need them, in place: exporters' threads deal them out anew.

    Graphs inside nodes read values that their nodes do not name, so that models with such nodes stay as they are.
    """
    graph = model.graph
    if any(attribute.HasField("g") or attribute.graphs for node in graph.node for attribute in node.attribute):
        return
    made_by = {name: node for node in graph.node for name in node.output if name}
    ordered: list[onnx.NodeProto] = []
    done: set[int] = set()
    waiting = [(made_by[value.name], False) for value in reversed(graph.output) if value.name in made_by]
    while waiting:
        node, fed = waiting.pop()
        if id(node) in done:
            continue
        if fed:
            done.add(id(node))
            ordered.append(node)
        else:
            waiting.append((node, True))
            waiting += [(made_by[name], False) for name in reversed(node.input) if name in made_by]
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
    constants = {tensor.name: tensor.SerializeToString() for tensor in graph.initializer}
    wanted = [*(name for node in nodes for name in node.input), *(value.name for value in graph.output)]
    used = dict.fromkeys(name for name in wanted if name in constants)
    for field in (graph.node, graph.initializer):
        del field[:]
    graph.node.extend(nodes)
    graph.initializer.extend(onnx.TensorProto.FromString(constants[name]) for name in used)


def _free(name: str, taken: set[str]) -> str:
    count = 1
    while f"{name}_{count}" in taken:
        count += 1
    return f"{name}_{count}"
