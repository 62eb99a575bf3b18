"""A torch graph in the making from an ONNX one: what was made of each value so far, and one step of it. Decides no operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper

from converters.compression import toolkit
from converters.graphs.graph_view import Array, GraphView, attributes

if TYPE_CHECKING:
    import torch


class Unfit(Exception):
    """A node has no trainable form; says why, to go on after its name."""


class Growth:
    """A torch graph in the making: `layers` holds what has weights, `made` the values by their ONNX names."""

    def __init__(self, model: onnx.ModelProto, inputs: Sequence[str]) -> None:
        self.view = GraphView(model)
        self.layers = toolkit.torch().nn.Module()
        self.graph = toolkit.load("torch.fx", "PyTorch").Graph()
        self.made: dict[str, Any] = {}
        self._constants = {
            node.output[0]: numpy_helper.to_array(attributes(node)["value"])
            for node in self.view.nodes
            if node.op_type == "Constant" and "value" in attributes(node)
        }
        for at, name in enumerate(inputs):
            self.made[name] = self.graph.placeholder(f"given_{at}")

    def constant(self, name: str) -> Array | None:
        """A constant's value, or None where the value is computed or given."""
        return self._constants[name] if name in self._constants else self.view.constant(name)

    def value(self, name: str) -> Any:  # noqa: ANN401  # torch may be missing
        """What was made of a value; a constant becomes a tensor that is not trained. Raises `Unfit`."""
        if name in self.made:
            return self.made[name]
        found = self.constant(name)
        if found is None:
            raise Unfit(f"takes {name!r}, which nothing makes")
        self.made[name] = self.kept(found)
        return self.made[name]

    def kept(self, values: Array) -> Any:  # noqa: ANN401
        """A tensor that is not trained."""
        place = f"constant_{len(list(self.layers.buffers(recurse=False)))}"
        self.layers.register_buffer(place, toolkit.torch().from_numpy(np.array(values)))
        return self.graph.get_attr(place)


@dataclass(frozen=True)
class Step:
    """One node of the ONNX graph, and the torch graph that grows by it. Positions are those of the node's inputs."""

    growth: Growth
    node: onnx.NodeProto
    settings: Mapping[str, Any]
    """The node's attributes."""

    @property
    def operator(self) -> str:
        """By ONNX's name."""
        return self.node.op_type

    @property
    def shape(self) -> tuple[int | None, ...] | None:
        """That of the first input, as far as it is known."""
        return self.growth.view.shape(self.node.input[0])

    def constant(self, position: int) -> Array | None:
        """The constant at an input, or None where there is none."""
        return self.growth.constant(self.node.input[position]) if position < len(self.node.input) else None

    def weights(self, position: int) -> Array:
        """The constant at an input that must be one. Raises `Unfit`."""
        found = self.constant(position)
        if found is None:
            raise Unfit(f"takes a computed input {position}, where a constant is wanted")
        return found

    def numbers(self, position: int, otherwise: Any) -> Any:  # noqa: ANN401  # whatever an attribute is
        """The constant at an input, as numbers, where newer operator sets have what used to be an attribute: `otherwise`."""
        if position >= len(self.node.input) or not self.node.input[position]:
            return otherwise
        return self.weights(position).tolist()

    def value(self, position: int = 0) -> Any:  # noqa: ANN401  # torch may be missing
        """What was made of an input. Raises `Unfit`."""
        return self.growth.value(self.node.input[position])

    def values(self) -> list[Any]:
        """What was made of all inputs, in order. Raises `Unfit`."""
        return [self.growth.value(name) for name in self.node.input]

    def kept(self, values: Array) -> Any:  # noqa: ANN401
        """A tensor that is not trained."""
        return self.growth.kept(values)

    def layer(self, module: torch.nn.Module, given: Any) -> Any:  # noqa: ANN401
        """Call a layer with weights on a value."""
        place = f"layer_{len(list(self.growth.layers.children()))}"
        self.growth.layers.add_module(place, module)
        return self.growth.graph.call_module(place, (given,))

    def call(self, function: Any, *given: Any, **settings: Any) -> Any:  # noqa: ANN401
        """Call one of torch's functions."""
        return self.growth.graph.call_function(function, given, settings)
