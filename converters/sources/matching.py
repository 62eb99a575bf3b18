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


def _free(name: str, taken: set[str]) -> str:
    count = 1
    while f"{name}_{count}" in taken:
        count += 1
    return f"{name}_{count}"
