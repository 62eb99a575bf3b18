"""The one trainer: every kind of compression fits its module here, deterministic for a seed, within its time, or not at all.

It knows nothing of pruning or quantization: what must hold after each step (masks) is given as a callback.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from converters.compression import toolkit
from converters.compression.objective import Objective
from converters.compression.recipes import Schedule
from converters.compression.schedule import batches, epochs_that_fit, learning_rate
from converters.data.calibration import Dataset
from converters.errors import RecipeFailed, TrainingFailed

if TYPE_CHECKING:
    import torch

Stopwatch = Callable[[], float]
Told = Callable[[str, float], None]
"""Told how the training goes, and how much of it is done, in [0, 1]."""

_WEIGHT_DECAY: Final = 1e-4
_GRADIENT: Final = 5.0
"""Longest gradient of one step: longer ones are shortened, so that one odd batch does not throw the weights away."""


@dataclass(frozen=True)
class Fitted:
    """How a training went: epochs done of those asked for, and the mean loss of the last one."""

    epochs: int
    asked: int
    loss: float

    def describe(self, samples: int) -> str:
        """For people."""
        cut = "" if self.epochs == self.asked else f" of {self.asked} (the time was up)"
        return f"trained {self.epochs}{cut} epochs on {samples} samples, last loss {self.loss:.4f}"


@contextmanager
def deterministic(seed: int, threads: int) -> Iterator[None]:
    """Within, the same steps give the same numbers; afterwards torch's chance and settings are as they were."""
    torch = toolkit.torch()
    before = torch.get_num_threads()
    was, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(True, warn_only=True)  # noqa: FBT003 - torch's own signature
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(was, warn_only=warned)
            torch.set_num_threads(before)


def flat(answers: Any) -> list[torch.Tensor]:  # noqa: ANN401  # whatever a user's module gives
    """A module's answers as a list, in the order in which an ONNX export gives them."""
    if isinstance(answers, dict):
        answers = list(answers.values())
    if isinstance(answers, list | tuple):
        return [tensor for each in answers for tensor in flat(each)]
    return [answers]


class Trainer:
    """Fits modules to one set of training samples. `inputs` are the data's names in the order of the module's parameters.

    `seconds` is the time for one fit; None: as long as it takes.
    """

    def __init__(
        self,
        data: Dataset,
        inputs: Sequence[str],
        *,
        seed: int,
        seconds: float | None,
        told: Told,
        stopwatch: Stopwatch = time.perf_counter,
    ) -> None:
        torch = toolkit.torch()
        self._inputs = [torch.from_numpy(data.inputs[name]) for name in inputs]
        self.samples = len(data)
        self._seed = seed
        self._seconds = seconds
        self._told = told
        self._stopwatch = stopwatch

    def some(self, count: int) -> tuple[torch.Tensor, ...]:
        """The inputs of the first samples."""
        return tuple(values[:count] for values in self._inputs)

    def fit(
        self,
        module: torch.nn.Module,
        objective: Objective,
        schedule: Schedule,
        *,
        share: float = 1.0,
        after_step: Callable[[], None] | None = None,
        after_epoch: Callable[[float], None] | None = None,
    ) -> Fitted:
        """Train `module` in place. `share` is its part of the time; `after_epoch` is told how much of the training is done.

        Raises `TrainingFailed` when the loss is no number any more, `RecipeFailed` when the module does not fit the data.
        """
        torch = toolkit.torch()
        parameters = [each for each in module.parameters() if each.requires_grad]
        if not parameters:
            raise RecipeFailed("cannot be trained: the module has no parameter that may change")
        optimizer = torch.optim.AdamW(parameters, lr=schedule.learning_rate, weight_decay=_WEIGHT_DECAY)
        order = torch.Generator().manual_seed(self._seed)
        seconds = None if self._seconds is None else share * self._seconds
        run = _Run(module, objective, optimizer, schedule, parameters, after_step, seconds)
        start, epochs, done, loss = self._stopwatch(), schedule.epochs, 0, float("nan")
        while done < epochs:
            mixed = torch.randperm(self.samples, generator=order)
            loss, whole = self._epoch(run, mixed, done, epochs, start)
            done += 1
            if done == 1:
                epochs = epochs_that_fit(epochs, first_seconds=self._stopwatch() - start, seconds=seconds)
            if after_epoch is not None:
                after_epoch(done / epochs)
            self._told(f"epoch {done} of {epochs}, loss {loss:.4f}", done / epochs)
            if not whole:
                break
        return Fitted(done, schedule.epochs, loss)

    def _epoch(self, run: _Run, mixed: torch.Tensor, at: int, epochs: int, start: float) -> tuple[float, bool]:
        """One pass; the mean loss, and whether it came to its end in time."""
        total, seen = 0.0, 0
        for begin, end in batches(self.samples, run.schedule.batch):
            picked = mixed[begin:end]
            rate = learning_rate(run.schedule.learning_rate, (at + begin / self.samples) / epochs)
            loss = run.step([values[picked] for values in self._inputs], picked, rate)
            if not _is_number(loss):
                raise TrainingFailed(
                    f"The loss became {loss} in epoch {at + 1} of the training. Lower the learning rate "
                    f"({run.schedule.learning_rate:g}), and look for extreme values in the training data."
                )
            total, seen = total + loss * (end - begin), seen + end - begin
            if run.seconds is not None and self._stopwatch() - start > run.seconds:
                return total / seen, end == self.samples
        return total / seen, True


@dataclass(frozen=True)
class _Run:
    """What one fit trains, and how."""

    module: torch.nn.Module
    objective: Objective
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    parameters: list[torch.nn.Parameter]
    after_step: Callable[[], None] | None
    seconds: float | None

    def step(self, inputs: list[torch.Tensor], picked: torch.Tensor, rate: float) -> float:
        """One batch forwards and backwards; its loss."""
        torch = toolkit.torch()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        try:
            loss = self.objective.loss(flat(self.module(*inputs)), picked)
            self.optimizer.zero_grad()
            loss.backward()
        except (RuntimeError, ValueError, TypeError) as error:
            raise RecipeFailed(f"cannot be trained: {first_line(error)}") from error
        torch.nn.utils.clip_grad_norm_(self.parameters, _GRADIENT)
        self.optimizer.step()
        if self.after_step is not None:
            self.after_step()
        return float(loss.detach())


def first_line(error: BaseException) -> str:
    """What an error says first, without a final stop."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")


def _is_number(value: float) -> bool:
    return abs(value) < float("inf")  # neither NaN nor infinity
