"""One activation of a model: who is inside, who waits before it, what was counted; and what an answer is.

A request that finds a free place takes it without a lock: it writes itself down as inside, and only then looks whether
something is the matter (`alert`: the room is retired, or somebody waits). Whoever changes that says so first and looks who is
inside afterwards; so one of the two always sees the other. Who gets in is `runtime.hosting.entrance`'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import msgspec

from fleet_protocol.tensors import DYNAMIC, TensorSpec
from runtime.engine import Array
from runtime.errors import InvalidInput, ModelUnwell
from runtime.hosting.admission import Limits, Line
from runtime.hosting.usage import ErrorKind, UsageCounter, all_finite
from runtime.model import Model
from runtime.processing import Processor

if TYPE_CHECKING:
    from runtime.hosting.entrance import Place


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """What answers: a release of a model, and which of its variants. `manifest` is the manifest's digest."""

    model: str
    version: str
    manifest: str
    variant: str


class Inference(msgspec.Struct, gc=False):
    """One answer. `labels` are the version's class names."""

    outputs: dict[str, Array]
    identity: ModelIdentity
    labels: tuple[str, ...] = ()
    known_finite: bool | None = None

    @property
    def finite(self) -> bool:
        """False when an output holds NaN or infinity: counted as an error, and not to be trusted.

        It is found out when it is asked, so ask before you change the arrays.
        """
        if self.known_finite is None:
            self.known_finite = all_finite(self.outputs)
        return self.known_finite


class Observer(Protocol):
    """Is told answers, on the thread that asked for them: it must be quick, raise nothing, and change no array."""

    def __call__(self, inputs: Mapping[str, Array], inference: Inference, seconds: float) -> int:
        """One answer, and the seconds that the model took for it. Returns how many answers it does not want to be told next.

        Where several run at once, it may be told one too many or too few.
        """
        ...


@dataclass(frozen=True, slots=True)
class Served:
    """A model as it is active now. `typical_s` is its smoothed latency in seconds, None before the first answer.

    `running` requests are inside, of which `hung` take longer than any should, and `waiting` are before it. `longest_s`: what
    the oldest of those inside has taken until now, in seconds.
    """

    identity: ModelIdentity
    engine: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    labels: tuple[str, ...]
    typical_s: float | None
    running: int = 0
    waiting: int = 0
    hung: int = 0
    longest_s: float = 0.0
    idle_s: float = 0.0
    """Seconds since its last answer, or since it was activated."""
    aside: bool = False
    """Whether its requests never run on an event loop's own thread."""
    stuck: bool = False
    """Whether every place is taken by a run that hangs: nobody is answered."""
    choice: str = ""
    """Why this engine and device were taken, for people."""
    processor: Processor | None = None
    """What makes inputs of pictures and results of outputs; None where its manifest declares nothing."""


class Room:
    """One activation. `settle` is called without the lock when somebody left and something is the matter."""

    __slots__ = (
        "_call",
        "_observer",
        "_settle",
        "_untold",
        "alert",
        "closed",
        "identity",
        "inside",
        "labels",
        "limits",
        "line",
        "model",
        "owns",
        "places",
        "retired",
        "sampled",
        "usage",
        "used",
    )

    def __init__(
        self,
        identity: ModelIdentity,
        model: Model,
        labels: tuple[str, ...],
        *,
        limits: Limits,
        usage: UsageCounter,
        settle: Callable[[Room], None],
    ) -> None:
        self.identity = identity
        self.model = model
        self.labels = labels
        self.limits = limits
        self.places = limits.running
        self.usage = usage
        self.line: Line[Place] = Line(f"{identity.model} {identity.version}", limits.waiting)
        self.inside: list[float] = []
        """When each of those who run began, by `time.perf_counter`."""
        self._observer: Observer | None = None
        self._untold = 0
        """So many answers is the observer not told next."""
        self.alert = False
        self.retired = False
        self.closed = False
        self.owns = True
        """Whether the model ends with this room; not when the next room took it over."""
        self.sampled = _sampled(model.inputs)
        """The input whose rows are samples; None: a request is one sample."""
        self.used = time.perf_counter()
        """When the last answer was given."""
        self._call = model.__call__
        self._settle = settle

    def enter(self) -> float | None:
        """Take a place that is free, without a lock: when that was, or None where there is none."""
        began = time.perf_counter()
        inside = self.inside
        inside.append(began)
        if not self.alert and len(inside) <= self.places:
            return began
        self.step_out(began)
        return None

    def answer(self, inputs: Mapping[str, Array], began: float, asked: float) -> Inference:
        """The model's answer to one who is inside since `began` and asks now, and out again.

        Raises `InvalidInput` or `InferenceFailed`.
        """
        try:
            outputs = self._call(inputs)
            ended = time.perf_counter()
            finite = self.usage.note(ended - asked, inputs, outputs)
        except InvalidInput:
            self._failed(began, "invalid_input")
            raise
        except BaseException:
            self._failed(began, "failed")
            raise
        self.used = ended
        self.inside.remove(began)
        if self.alert:
            self._settle(self)
        inference = Inference(outputs, self.identity, self.labels, finite)
        if self._observer is not None:
            if self._untold > 0:
                self._untold -= 1
            else:
                self._untold = self._observer(inputs, inference, ended - asked)
        return inference

    def observe(self, observer: Observer | None) -> None:
        """Tell `observer` the answers from now on; None: nobody."""
        self._observer, self._untold = observer, 0

    def step_out(self, began: float) -> None:
        """Leave without having asked."""
        self.inside.remove(began)
        if self.alert:
            self._settle(self)

    def _failed(self, began: float, kind: ErrorKind) -> None:
        self.usage.failed(kind)
        self.step_out(began)

    def is_over(self) -> bool:
        """Whether nobody is inside any more and the model can be closed."""
        return self.retired and self.owns and not self.closed and not self.inside

    def hung(self) -> int:
        """How many of those inside take longer than any should."""
        long_ago = time.perf_counter() - self.limits.hang_s
        return sum(began < long_ago for began in self.inside[:])

    def is_quick(self, within_s: float) -> bool:
        """Whether a run takes less than that, as far as is known: it may hold up who serves others too."""
        typical_s = self.usage.typical_s
        if typical_s is None or typical_s >= within_s or self.limits.aside:
            return False
        return len(self.inside) < 2 or not self.hung()  # whoever asks has gone in just now

    def served(self) -> Served:
        """What there is to say of it."""
        model = self.model
        began = self.inside[:]
        hung = self.hung() if began else 0
        return Served(
            self.identity,
            model.engine,
            model.inputs,
            model.outputs,
            self.labels,
            self.usage.typical_s,
            len(began),
            len(self.line),
            hung,
            time.perf_counter() - min(began) if began else 0.0,
            time.perf_counter() - self.used,
            self.limits.aside,
            hung >= self.places,
            model.choice,
            model.processor,
        )

    def unwell(self) -> ModelUnwell | None:
        """What to say when every place is taken by a run that hangs; None when there is hope."""
        if self.hung() < self.places:
            return None
        return ModelUnwell(
            f"{self.identity.model} {self.identity.version} hangs: {self.places} runs take longer than "
            f"{self.limits.hang_s:g} s each. Activate another version, or start again with the model isolated."
        )

    def until_hung(self) -> float:
        """Seconds until the youngest run inside counts as hung, if it goes on so long."""
        return max(self.inside[:], default=0.0) + self.limits.hang_s - time.perf_counter()


def _sampled(inputs: tuple[TensorSpec, ...]) -> str | None:
    """The first input, where its first dimension is free."""
    return inputs[0].name if inputs and inputs[0].shape[:1] == (DYNAMIC,) else None
