"""The process in which an isolated model runs: `python -m runtime.hosting.isolated_child`, asked by `runtime.hosting.isolated`.

It opens one model and answers one request after the other. It may crash or hang: the program that asks goes on.
"""

from __future__ import annotations

import os

import msgspec

from fleet_protocol.tensors import TensorSpec
from runtime import tensor_file
from runtime.errors import InferenceFailed, InvalidInput
from runtime.example_inputs import example
from runtime.hosting import memory
from runtime.hosting.order import ToOpen
from runtime.model import Model
from runtime.tensor_file import Tensor


class Open(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Load the model. `exchange`: the file through which tensors go."""

    model: ToOpen
    exchange: str


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to `Open`."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    description: str
    choice: str


class Weigh(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Run once, and say what this process takes."""


class Weighed(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to `Weigh`: anonymous memory of the whole process."""

    memory_bytes: int


class Run(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Answer the request that lies in the file."""

    inputs: tuple[Tensor, ...]


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to `Run`, which lies in the file; or why there is none."""

    outputs: tuple[Tensor, ...] = ()
    invalid_input: str | None = None
    failure: str | None = None


class Actor:
    """The model and what it is asked."""

    def __init__(self) -> None:
        self._model: Model | None = None
        self._exchange = -1

    def answer(self, order: Open | Weigh | Run) -> Opened | Weighed | Ran:
        """Do what is ordered. Raises `ModelRejected`."""
        match order:
            case Open():
                return self._open(order)
            case Weigh():
                model = self._opened()
                model(example(model.inputs))
                memory.give_back()
                return Weighed(memory_bytes=memory.anonymous_bytes())
            case Run():
                return self._run(order)

    def _open(self, order: Open) -> Opened:
        self._exchange = os.open(order.exchange, os.O_RDWR)
        engine = order.model.open()
        self._model = Model(engine)
        return Opened(inputs=engine.inputs, outputs=engine.outputs, description=engine.description, choice=engine.choice)

    def _run(self, order: Run) -> Ran:
        try:
            outputs = self._opened()(tensor_file.read(self._exchange, order.inputs))
        except InvalidInput as error:
            return Ran(invalid_input=str(error))
        except InferenceFailed as error:
            return Ran(failure=str(error))
        return Ran(outputs=tensor_file.write(self._exchange, outputs))

    def _opened(self) -> Model:
        if self._model is None:
            raise InvalidInput("No model is open in this child process. Open one first.")
        return self._model


if __name__ == "__main__":
    from runtime.children import serve

    serve(Open | Weigh | Run, Actor().answer)  # type: ignore[arg-type]  # a union is no type[T] to mypy, and msgspec takes it
