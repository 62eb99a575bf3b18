"""LSTM, GRU and RNN, unrolled over their fixed number of steps.

TFLite's own sequence operations keep their state between calls, so that an answer would depend on the one before; unrolled,
a call is a function of its inputs. All steps' products with the input are one matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from converters.tflite.emission import FLOAT, Call, Value
from converters.tflite.graph import Activation, Array, Options, Tensor
from converters.tflite.operators.activation import Maths
from converters.tflite.operators.registry import Table
from converters.tflite.shapes import Shape

_MOST_STEPS: Final = 256
"""A graph of more steps is larger than its weights, and slow to load."""

_USUAL: Final = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
_GATES: Final = {"LSTM": 4, "GRU": 3, "RNN": 1}
_KINDS: Final = {"Sigmoid": "LOGISTIC", "Tanh": "TANH", "Relu": "RELU"}


@dataclass(frozen=True)
class _Cell:
    """One direction's weights: `inputs` and `hidden` float32[gates · size, features], biases float32[gates · size]."""

    inputs: Array
    hidden: Array
    input_bias: Array
    hidden_bias: Array
    size: int


class _Unrolling:
    """What the steps of one direction need."""

    def __init__(self, call: Call, cell: _Cell, rows: Shape) -> None:
        self.call = call
        self.emission = call.emission
        self.maths = Maths(call)
        self.cell = cell
        self.rows = rows
        """[samples, size]: one step's state."""
        given = list(call.attribute("activations") or _USUAL[call.node.op])
        self.kinds = [_KINDS[_text(each)] for each in given[: len(_USUAL[call.node.op])]]

    def product(self, tensor: Tensor, weights: Array, bias: Array, name: str) -> Tensor:
        """The tensor times transposed weights, plus bias."""
        shape = Shape((*tensor.shape.sizes[:-1], len(weights)), tensor.shape.free)
        stored = [self.emission.constant(np.ascontiguousarray(each), name) for each in (weights, bias)]
        options: Options = {"fusedActivationFunction": Activation.NONE, "keepNumDims": len(shape) > 2, "weightsFormat": 0}
        return self.emission.add("FULLY_CONNECTED", [tensor, *stored], shape, **options)

    def split(self, tensor: Tensor, parts: int) -> list[Tensor]:
        """Equal parts of the last axis."""
        where = self.emission.constant(np.array(1, np.int32), "axis")
        return self.emission.add_many("SPLIT", [where, tensor], [self.rows] * parts, dtype=FLOAT, numSplits=parts)

    def both(self, left: Tensor, right: Tensor, kind: str = "ADD") -> Tensor:
        """Left kind right."""
        return self.maths.two(kind, left, right)


State = list[Tensor]
Step = Callable[[_Unrolling, Tensor, State], State]


def _lstm(run: _Unrolling, given: Tensor, state: State) -> State:
    hidden, memory = state
    whole = run.both(given, run.product(hidden, run.cell.hidden, run.cell.hidden_bias, "recurrence"))
    inward, outward, forget, candidate = run.split(whole, 4)
    gate, inner, outer = run.kinds
    kept = run.both(run.maths.unary(gate, forget), memory, "MUL")
    memory = run.both(kept, run.both(run.maths.unary(gate, inward), run.maths.unary(inner, candidate), "MUL"))
    return [run.both(run.maths.unary(gate, outward), run.maths.unary(outer, memory), "MUL"), memory]


def _gru(run: _Unrolling, given: Tensor, state: State) -> State:
    (hidden,) = state
    gate, inner = run.kinds
    update, reset, candidate = run.split(given, 3)
    size = run.cell.size
    if run.call.attribute("linear_before_reset", 0):
        parts = run.split(run.product(hidden, run.cell.hidden, run.cell.hidden_bias, "recurrence"), 3)
        reset = run.maths.unary(gate, run.both(reset, parts[1]))
        inward = run.both(reset, parts[2], "MUL")
        update = run.maths.unary(gate, run.both(update, parts[0]))
    else:
        first = run.product(hidden, run.cell.hidden[: 2 * size], run.cell.hidden_bias[: 2 * size], "recurrence")
        parts = run.split(first, 2)
        reset = run.maths.unary(gate, run.both(reset, parts[1]))
        update = run.maths.unary(gate, run.both(update, parts[0]))
        kept = run.both(reset, hidden, "MUL")
        inward = run.product(kept, run.cell.hidden[2 * size :], run.cell.hidden_bias[2 * size :], "recurrence")
    proposal = run.maths.unary(inner, run.both(candidate, inward))
    return [run.both(proposal, run.both(update, run.both(hidden, proposal, "SUB"), "MUL"))]


def _rnn(run: _Unrolling, given: Tensor, state: State) -> State:
    (hidden,) = state
    return [
        run.maths.unary(run.kinds[0], run.both(given, run.product(hidden, run.cell.hidden, run.cell.hidden_bias, "recurrence")))
    ]


_STEPS: Final[dict[str, Step]] = {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}


def recurrent(call: Call) -> list[Value]:
    """LSTM, GRU, RNN: results are [steps, directions, samples, size], then the last states [directions, samples, size]."""
    _refuse(call)
    value = call.value()
    by_sample = (1, 0, 2)  # steps and samples change places: stored with the samples first
    if call.attribute("layout", 0):
        raise call.unsupported("with the samples first (layout=1) it has no form")
    stored = call.emission.stored(value, by_sample)
    kind, directions = call.node.op, len(call.constant(1, "weights"))
    reverse = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[
        _text(call.attribute("direction", "forward"))
    ]
    every, last = [], []
    for at in range(directions):
        steps, state = _direction(call, stored, at, backwards=reverse[at])
        every.append(steps)
        last.append(state)
    whole = [_stacked(call, steps) for steps in every]
    states = [_joined(call, [state[at] for state in last]) for at in range(2 if kind == "LSTM" else 1)]
    return [_sequence(call, whole), *states]


def _direction(call: Call, stored: Tensor, at: int, *, backwards: bool) -> tuple[list[Tensor], State]:
    cell = _cell(call, at)
    samples, steps, _ = stored.shape.sizes
    rows = Shape((samples, cell.size), (stored.shape.free[0], False))
    run = _Unrolling(call, cell, rows)
    inward = run.product(stored, cell.inputs, cell.input_bias, "inputs")
    width = len(cell.inputs)
    state, every = _first_state(call, run, at), []
    for step in reversed(range(steps)) if backwards else range(steps):
        one = Shape((samples, 1, width), inward.shape.free)
        begin, size = call.emission.integers([0, step, 0]), call.emission.integers(one.signature)
        piece = call.emission.add("SLICE", [inward, begin, size], one)
        given = call.emission.reshaped(piece, Shape((samples, width), rows.free))
        state = _STEPS[call.node.op](run, given, state)
        every.append(state[0])
    return (every[::-1] if backwards else every), state


def _first_state(call: Call, run: _Unrolling, at: int) -> State:
    """Zeros, or the states that are given, each for one direction."""
    found = []
    for index in (5, 6) if call.node.op == "LSTM" else (5,):
        if not call.has(index):
            zeros = call.emission.constant(np.zeros((1, run.cell.size), np.float32), "zeros")
            found.append(_repeated(call, zeros, run.rows))
            continue
        value = call.value(index)
        tensor = call.emission.plain(value)
        one = Shape((1, *run.rows.sizes), (False, *run.rows.free))
        if tensor.shape.sizes[0] != 1:
            inputs = [tensor, call.emission.integers([at, 0, 0]), call.emission.integers(one.signature)]
            tensor = call.emission.add("SLICE", inputs, one)
        found.append(call.emission.reshaped(tensor, run.rows))
    return found


def _repeated(call: Call, zeros: Tensor, rows: Shape) -> Tensor:
    if not rows.is_fixed:
        return call.emission.for_each_sample(zeros, rows)
    return call.emission.constant(np.zeros(rows.sizes, np.float32), "zeros")


def _cell(call: Call, at: int) -> _Cell:
    inputs, hidden = call.constant(1, "weights")[at], call.constant(2, "weights")[at]
    bias = call.optional(3, "biases")
    both = np.zeros(2 * len(inputs), np.float32) if bias is None else bias[at]
    first, second = both[: len(inputs)], both[len(inputs) :]
    return _Cell(inputs, hidden, first, second, hidden.shape[1])


def _refuse(call: Call) -> None:
    steps = call.value().shape.sizes[0]
    if call.value().shape.free[0]:
        raise call.unsupported("its steps are what the input's first axis counts. Export it with a fixed number of steps")
    if steps > _MOST_STEPS:
        raise call.unsupported(f"it has {steps} steps; at most {_MOST_STEPS} are unrolled")
    if call.has(4) and not (call.constant(4, "lengths") == steps).all():
        raise call.unsupported("lengths of its own for each sample have no form. Leave them out")
    if call.attribute("clip") is not None or call.attribute("input_forget", 0) or call.has(7):
        raise call.unsupported("clip, input_forget and peepholes have no form")
    given = [_text(each) for each in call.attribute("activations") or []]
    count = len(_USUAL[call.node.op])
    if set(given) - set(_KINDS) or any(given[at] != given[at % count] for at in range(len(given))):
        raise call.unsupported(f"the activations {', '.join(given)} have no form")


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _stacked(call: Call, steps: Sequence[Tensor]) -> Tensor:
    """[samples, steps · size]: the steps one behind another, which a reshape makes [samples, steps, size]."""
    first = steps[0].shape
    if len(steps) == 1:
        return steps[0]
    shape = first.with_size(1, first.sizes[1] * len(steps))
    return call.emission.add("CONCATENATION", list(steps), shape, axis=1, fusedActivationFunction=Activation.NONE)


def _sequence(call: Call, whole: Sequence[Tensor]) -> Value:
    """All steps of all directions as [steps, directions, samples, size], stored with the samples first."""
    steps, _, _, size = _sequence_sizes(call)
    each = [
        call.emission.reshaped(tensor, Shape((tensor.shape.sizes[0], steps, 1, size), (tensor.shape.free[0], *[False] * 3)))
        for tensor in whole
    ]
    layout = (2, 0, 1, 3)
    shape = Shape((each[0].shape.sizes[0], steps, len(each), size), each[0].shape.free)
    tensor = each[0]
    if len(each) > 1:
        tensor = call.emission.add("CONCATENATION", each, shape, axis=2, fusedActivationFunction=Activation.NONE)
    logical = Shape((steps, len(each), shape.sizes[0], size), (False, False, shape.free[0], False))
    return Value(logical, tensor, layout)


def _sequence_sizes(call: Call) -> tuple[int, int, int, int]:
    steps, samples, _ = call.value().shape.sizes
    return steps, len(call.constant(1, "weights")), samples, call.constant(2, "weights").shape[2]


def _joined(call: Call, states: Sequence[Tensor]) -> Value:
    """The last states of all directions as [directions, samples, size], stored with the samples first."""
    first = states[0].shape
    logical = Shape((len(states), *first.sizes), (False, *first.free))
    if len(states) == 1:
        return Value(logical, states[0], (1, 2))
    flat = first.with_size(1, first.sizes[1] * len(states))
    tensor = call.emission.add("CONCATENATION", list(states), flat, axis=1, fusedActivationFunction=Activation.NONE)
    stored = Shape((first.sizes[0], len(states), first.sizes[1]), (first.free[0], False, False))
    return Value(logical, call.emission.reshaped(tensor, stored), (1, 0, 2))


TABLE: Final[Table] = {"LSTM": recurrent, "GRU": recurrent, "RNN": recurrent}
