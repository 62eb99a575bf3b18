"""ONNX in, TFLite float32 out: walks the nodes, lets each operator's function emit its part, and finishes the graph. Pure.

The table of operators stands in `operators/`; what they work with in `emission.py`; passes over the finished graph in
`passes.py`. No TensorFlow, no network, no file.
"""

from __future__ import annotations

from collections.abc import Sequence

from converters.errors import RecipeFailed, UnsupportedOperator
from converters.tflite.emission import Call, Emission, UnsupportedForm, Value
from converters.tflite.graph import Graph, Tensor
from converters.tflite.operators import TABLE
from converters.tflite.passes import finish
from converters.tflite.patterns import recognise
from converters.tflite.rewriting import NEEDS
from converters.tflite.serialise import serialise
from converters.tflite.source import Node, Prepared


def emit(prepared: Prepared, *, watch: Sequence[str] = ()) -> bytes:
    """The model as a TFLite file of one signature, whose names are ONNX's. Inputs and outputs keep ONNX's layout.

    `watch` names further ONNX tensors that shall be outputs too. Raises `UnsupportedOperator`, which names the node.
    """
    return serialise(build(prepared, watch=watch))


def build(prepared: Prepared, *, watch: Sequence[str] = ()) -> Graph:
    """The finished graph, before it becomes bytes. Raises as `emit`."""
    nodes = recognise(prepared, keep=(*prepared.outputs, *watch))
    _refuse_unknown(nodes)
    emission = Emission(prepared)
    emission.take_inputs()
    for node in nodes:
        _emit_node(emission, node)
    _put_outputs(emission, watch)
    return finish(emission.graph)


def _refuse_unknown(nodes: Sequence[Node]) -> None:
    """All operators that are lacking, in one message, before anything is done."""
    lacking: dict[str, Node] = {}
    for node in nodes:
        if node.domain or node.op not in TABLE:
            lacking.setdefault(f"{node.domain}.{node.op}", node)
    if lacking:
        raise UnsupportedOperator(
            f"cannot be made: TFLite variants have no form for {', '.join(_named(node) for node in lacking.values())}. Use "
            "operators of docs/tflite.md instead, or ship ONNX variants only"
        )


def _named(node: Node) -> str:
    """The node, and what it needs if it is one that can be taken apart."""
    needs = NEEDS.get(f"{node.domain}.{node.op}" if node.domain else node.op)
    return node.describe() + (f" (it needs {needs})" if needs else "")


def _emit_node(emission: Emission, node: Node) -> None:
    call = Call(emission, node)
    before = len(emission.graph.operations)
    try:
        results = TABLE[node.op](call)
    except UnsupportedForm as error:
        raise call.unsupported(str(error)) from error
    except (KeyError, IndexError, ValueError, AssertionError) as error:
        raise call.unsupported(f"it has a form that is not understood ({type(error).__name__}: {error})") from error
    made = {id(tensor) for operation in emission.graph.operations[before:] for tensor in operation.outputs}
    for name, value in zip(node.outputs, [results] if isinstance(results, Value) else results, strict=False):
        if id(value.tensor) in made:
            value.tensor.name = name
        if name:
            emission.set(name, value)


def _put_outputs(emission: Emission, watch: Sequence[str]) -> None:
    taken = {id(tensor) for _, tensor in emission.graph.inputs} | set(emission.graph.consumers())
    if all(emission.get(name).is_constant for name in emission.prepared.outputs):
        raise RecipeFailed("answers with constants only, whatever it is given")
    for name in dict.fromkeys((*emission.prepared.outputs, *watch)):
        tensor = emission.plain(emission.get(name))
        if 0 in tensor.shape.sizes:
            raise RecipeFailed(f"answers {name!r} without elements, which TFLite does not store")
        if tensor.data is not None or id(tensor) in taken:  # a signature wants a computed tensor of its own for each name
            tensor = _copy(emission, tensor)
        taken.add(id(tensor))
        emission.graph.outputs.append((name, tensor))


def _copy(emission: Emission, tensor: Tensor) -> Tensor:
    """Another tensor of the same elements."""
    return emission.like("RESHAPE", [tensor, emission.integers(tensor.shape.signature)])
