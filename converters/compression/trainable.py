"""An ONNX graph as a torch module that can be trained: whatever a reader reads can be compressed, and not torch's models only.

Convolutions, dense layers, normalisations and tables of words become torch's own layers, which pruning and quantization-aware
training look for; everything else is called as it stands (`operators`). Constants that are no layer's weights stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import onnx

from converters.compression import toolkit
from converters.compression.growth import Growth, Step, Unfit
from converters.compression.operators import OPERATORS
from converters.errors import RecipeFailed, SourceRejected
from converters.graphs.graph_view import attributes, is_standard
from converters.tflite.source import simplified

if TYPE_CHECKING:
    import torch

_SAMPLES: Final = 2
"""For so many the graph is simplified, which makes all shapes known; the module takes any number."""
_INSTEAD: Final = "Give the PyTorch factory that builds the model, or make int8 of it with `edgeward convert`"


def trainable(source: str, model: onnx.ModelProto, inputs: Sequence[str]) -> torch.nn.Module:
    """The module; it takes the graph's `inputs` in this order and gives its outputs in its own. `source` is for people.

    Raises `SourceRejected` with the first node that has no trainable form.
    """
    try:
        growth = Growth(simplified(model, _SAMPLES), inputs)
    except RecipeFailed as error:
        raise SourceRejected(f"{source} cannot be trained: it {error}.") from error
    for node in growth.view.nodes:
        try:
            _grow(growth, node)
        except Unfit as error:
            where = node.name or node.output[0]
            raise SourceRejected(
                f"{source} cannot be trained: the node {where!r} ({node.op_type}) {error}. {_INSTEAD}."
            ) from error
    answers = tuple(growth.value(output.name) for output in model.graph.output)
    growth.graph.output(answers if len(answers) > 1 else answers[0])
    made: torch.nn.Module = toolkit.load("torch.fx", "PyTorch").GraphModule(growth.layers, growth.graph)
    return made


def _grow(growth: Growth, node: onnx.NodeProto) -> None:
    if node.op_type == "Constant" or node.output[0] in growth.made:  # read where it is wanted; a bias that its layer took
        return
    make = OPERATORS.get(node.op_type) if is_standard(node) else None
    if make is None:
        raise Unfit("has no trainable form here")
    names = [name for name in node.output if name]
    made = make(Step(growth, node, attributes(node)))
    if isinstance(made, list):
        growth.made.update(zip(names, made, strict=True))
    elif len(names) > 1:
        raise Unfit(f"is asked for {len(names)} results; only the first has a trainable form")
    else:
        growth.made[names[0]] = made
