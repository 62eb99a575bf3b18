"""`Processor`: all that one model's manifest declares, ready to be done. Any number of threads may use one at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np

from fleet_protocol.errors import ProtocolError
from fleet_protocol.processing import Arrange, InputProcessing, Layout, Processing, Step, Tensor
from fleet_protocol.processing_fit import check_processing
from fleet_protocol.tensors import TensorSpec
from runtime.errors import InvalidInput, ModelRejected
from runtime.processing.numbers import Array
from runtime.processing.opening import Given, is_encoded, looked_at, samples
from runtime.processing.placing import Placement
from runtime.processing.results import Result, results_of
from runtime.processing.steps import batch, opens, rows


class Prepared(NamedTuple):
    """Inputs for a model, and how each picture lies in what the model sees (nothing where none came)."""

    inputs: dict[str, Array]
    placements: list[Placement]


class Processor:
    """Does one `Processing` for one model."""

    def __init__(
        self,
        processing: Processing,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        labels: tuple[str, ...] = (),
    ) -> None:
        """Raises `ModelRejected` where the processing does not fit the model's tensors."""
        try:
            check_processing(processing, inputs, outputs)
        except ProtocolError as error:
            raise ModelRejected(f"The {error}. Correct the processing, and convert or publish again.") from error
        self.processing: Final = processing
        self.labels: Final = labels
        self._inputs = {each.tensor: each for each in processing.inputs}
        self.encoded: Final = tuple(name for name, each in self._inputs.items() if not isinstance(each.first, Tensor))
        """The inputs that are made from encoded content: pictures, audio, bytes."""
        self.order: Final[Layout] = _order(processing.inputs[0]) if processing.inputs else "NHWC"
        """How the first picture lies."""

    def prepare(self, given: Sequence[Given]) -> Prepared:
        """A batch of at least one sample for the only input that has steps. Raises `InvalidInput`."""
        if len(self._inputs) != 1:
            raise InvalidInput(f"The model makes {len(self._inputs)} of its inputs itself; one thing alone needs exactly one.")
        [name] = self._inputs
        array, placements = self.batch(name, given)
        return Prepared({name: array}, placements)

    def batch(self, name: str, given: Sequence[Given]) -> tuple[Array, list[Placement]]:
        """The array for input `name`, which has steps, and how pictures lie in it. Raises `InvalidInput`."""
        return batch(self._inputs[name], given)

    @property
    def looked_at(self) -> int | None:
        """So many bytes at each end of a file are all that its only input with steps looks at; None: all of it."""
        return looked_at(self.processing.inputs[0]) if len(self._inputs) == 1 else None

    def takes(self, opener: type[Step]) -> bool:
        """Whether an input is opened so."""
        return any(isinstance(each.first, opener) for each in self._inputs.values())

    def opens(self, name: str, value: object) -> bool:
        """Whether this value goes through the steps of input `name`; else it is the model's own tensor."""
        wanted = self._inputs.get(name)
        return wanted is not None and opens(wanted, value)

    def rows(self, name: str, value: Given) -> Array:
        """The array for input `name`, which has steps, out of one sample or a batch. Raises `InvalidInput`."""
        return rows(self._inputs[name], value)

    def raw(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The model's inputs out of what their steps open; those that have no steps as they are. Raises `InvalidInput`."""
        return {name: self.rows(name, each) if self.opens(name, each) else each for name, each in inputs.items()}

    def taken(self, inputs: Mapping[str, Array], *, raw: bool) -> Prepared:
        """The model's inputs out of a request's: encoded content and, if `raw`, numbers through their steps; the rest as it is.

        Raises `InvalidInput`.
        """
        made: dict[str, Array] = {}
        placements: list[Placement] = []
        for name, each in inputs.items():
            wanted = self._inputs.get(name)
            if wanted is None or not (opens(wanted, each) if raw else name in self.encoded and is_encoded(each)):
                made[name] = each
                continue
            made[name], placed = batch(wanted, samples(wanted.first, each))
            placements = placements or placed
        return Prepared(made, placements)

    def texts(self, outputs: Mapping[str, Array], placements: list[Placement]) -> dict[str, Array]:
        """The declared results as JSON, by name: texts[samples]. Raises `InferenceFailed` where outputs are not as declared."""
        rows = self.results(outputs, placements)
        return {
            each.name: np.array([msgspec.json.encode(row[each.name]).decode() for row in rows], np.object_)
            for each in self.processing.results
        }

    def results(self, outputs: Mapping[str, Array], placements: list[Placement]) -> list[dict[str, Result]]:
        """The declared results, by name, of each sample. Raises `InferenceFailed` where outputs are not as declared."""
        made = {each.name: results_of(each, dict(outputs), placements, self.labels) for each in self.processing.results}
        count = min((len(each) for each in made.values()), default=0)
        return [{name: each[at] for name, each in made.items()} for at in range(count)]


def _order(wanted: InputProcessing) -> Layout:
    return next((step.order for step in wanted.steps if isinstance(step, Arrange)), "NHWC")
