"""The rim of tuning: candidates on the real device, one child process each.

    tuning = tune(path, seconds=20, cache=directory)
    model = load_tuned(path, tuning)

What to measure and what to make of it stands in `runtime.tuning.tuner`, which this module gives a device.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from fleet_protocol.manifest import Tolerance
from runtime import gate, parity, sources
from runtime.children import Child
from runtime.device_facts import usable_cores
from runtime.engine import format_of
from runtime.engines import providers
from runtime.errors import ChildFailed, ModelRejected
from runtime.gate import GateRequest, ModelFile
from runtime.model import Model
from runtime.sources import Contender
from runtime.trial import TrialResult
from runtime.tuning import measurement_child, neighbour_child, other_work, results, tuner
from runtime.tuning.advice import as_chosen
from runtime.tuning.measurement_child import Batch, Batched, Check, Open, Opened, Pace, Paced, Pad, Padded, Run
from runtime.tuning.record import Burst, Candidate, Condition, Examined, Objective, Tuning
from runtime.tuning.space import Space

log = logging.getLogger(__name__)

MIN_LIKENESS_DB: Final = 30.0
"""Between two ways of running one variant: other kernels may round otherwise, and no more than that."""

_OPEN_TIMEOUT_S: Final = 120.0
_RUN_TIMEOUT_S: Final = 60.0
_CHECK_SHARE: Final = 0.05
"""The share of the tuning time that the golden samples of one variant may take."""
_SETTLE_S: Final = 0.1
"""onnxruntime's threads spin for some 50 ms after a run."""
_PACED_RUNS: Final = 2


def tune(
    path: Path,
    *,
    seconds: float = 20.0,
    objective: Objective | None = None,
    cache: Path | None = None,
    again: bool = False,
    on_progress: tuner.Progress | None = None,
) -> Tuning:
    """The best way to run a bundle, or a bare model file, on this device: measured within about `seconds`.

    With a `cache` directory the result is kept there and given back, unmeasured, until model, objective, processor or
    libraries change, or `again` is set; where it cannot be written, a warning says so. Raises `ModelRejected` or `CannotTune`.
    """
    objective = objective or Objective()
    contenders = sources.contenders(path)
    key = results.key_of(contenders[0].source.identity.manifest, objective)
    known = None if cache is None or again else results.recall(cache, key)
    if known is not None:
        return known
    others, cores = providers.others(), usable_cores()
    tuning = measured(contenders, objective, seconds=seconds, cores=cores, others=others, on_progress=on_progress)
    if cache is not None:
        try:
            results.remember(cache, key, tuning)
        except OSError as error:  # what was measured must not be lost with it
            log.warning("%s cannot keep the result (%s): it is measured again next time.", cache, error.strerror or error)
    return tuning


def measured(
    contenders: Sequence[Contender],
    objective: Objective,
    *,
    seconds: float,
    cores: int,
    others: Sequence[str] = (),
    on_progress: tuner.Progress | None = None,
) -> Tuning:
    """The best way to run one of the contenders on at most `cores` cores, measured now. Raises `CannotTune`.

    `others` names the execution providers beside the CPU that may be taken.
    """
    space = Space(tuple(as_published(each) for each in contenders), cores, tuple(others))
    before = other_work.spent()
    with tempfile.TemporaryDirectory(prefix="edgeward-tune-") as scratch:
        device = MeasuredDevice(contenders, objective, Path(scratch), check_s=seconds * _CHECK_SHARE)
        try:
            tuning = tuner.search(space, device, objective, seconds=seconds, on_progress=on_progress)
        finally:
            device.close()
    doubt = other_work.warning(before, other_work.spent())
    return msgspec.structs.replace(tuning, reason=tuning.reason + doubt)


def load_tuned(path: Path, tuning: Tuning) -> Model:
    """Open the bundle's chosen variant, or the bare model, in the way that was chosen. Raises `ModelRejected`.

    Where batches bring enough (`runtime.hosting.batching.LEAST_GAIN`), requests that wait for each other are merged.
    """
    source = next((each.source for each in sources.contenders(path) if each.name == tuning.chosen.variant), None)
    if source is None:
        raise ModelRejected(f"{path} has no variant {tuning.chosen.variant!r}, which tuning chose. Tune it again.")
    return as_chosen(source, tuning).load()


def as_published(contender: Contender) -> Candidate:
    """The contender as it is loaded without advice."""
    form = format_of(contender.source.path)
    return Candidate(variant=contender.name, engine="litert" if form == "tflite" else "onnxruntime")


class MeasuredDevice:
    """This device; see `runtime.tuning.tuner.Device`."""

    def __init__(self, contenders: Sequence[Contender], objective: Objective, scratch: Path, *, check_s: float) -> None:
        self._contenders = {each.name: each for each in contenders}
        self._objective = objective
        self._scratch = scratch
        self._check_s = check_s
        self._started = time.perf_counter()
        self._children: dict[Candidate, Child] = {}
        self._answers: dict[str, Path] = {}
        """By variant: what its first good candidate answered."""
        self._neighbour: Child | None = None
        self._condition: Condition = "idle"

    def elapsed(self) -> float:
        """See `Device`."""
        return time.perf_counter() - self._started

    def examine(self, candidate: Candidate) -> Examined:
        """See `Device`."""
        self._be("idle")
        try:
            child = self._children[candidate] = Child(measurement_child.__name__)
            return self._examined(candidate, child)
        except ChildFailed as error:
            return Examined(failure=str(error))

    def burst(self, candidate: Candidate, condition: Condition, seconds: float) -> Burst | None:
        """See `Device`."""
        settle_s = _SETTLE_S if candidate.spinning == "on" else 0.0
        try:
            self._be(condition)
            order = Run(seconds=seconds, settle_s=settle_s)
            return self._children[candidate].ask(order, Burst, timeout_s=seconds + _RUN_TIMEOUT_S)
        except ChildFailed:
            return None

    def cpu(self, candidate: Candidate) -> float | None:
        """See `Device`."""
        self._be("idle")
        period_s = 1 / self._objective.rate_hz
        order = Pace(runs=_PACED_RUNS, period_s=period_s)
        try:
            timeout_s = _PACED_RUNS * period_s + _RUN_TIMEOUT_S
            return self._children[candidate].ask(order, Paced, timeout_s=timeout_s).cpu_s
        except ChildFailed:
            return None

    def batch_gains(self, candidate: Candidate, sizes: Sequence[int], seconds: float) -> dict[int, float]:
        """See `Device`."""
        self._be("idle")
        order = Batch(sizes=tuple(sizes), seconds=seconds)
        try:
            return self._children[candidate].ask(order, Batched, timeout_s=seconds + _RUN_TIMEOUT_S).gains
        except ChildFailed:  # a free first dimension that is no batch after all
            return {}

    def pads(self, candidate: Candidate) -> bool:
        """See `Device`."""
        try:
            return self._children[candidate].ask(Pad(), Padded, timeout_s=_RUN_TIMEOUT_S).holds
        except ChildFailed:
            return False

    def release(self, candidate: Candidate) -> None:
        """See `Device`."""
        child = self._children.pop(candidate, None)
        if child is not None:
            child.close()

    def close(self) -> None:
        """End every child."""
        if self._neighbour is not None:
            self._neighbour.close()
        for candidate in list(self._children):
            self.release(candidate)

    def _be(self, condition: Condition) -> None:
        """Let the busy neighbour burn or rest: it is started once, since that takes longer than a round."""
        if condition == self._condition:
            return
        if self._neighbour is None:
            self._neighbour = Child(neighbour_child.__name__)
        order = neighbour_child.Burn(on=condition == "busy")
        self._neighbour.ask(order, neighbour_child.Burning, timeout_s=_RUN_TIMEOUT_S)
        self._condition = condition

    def _examined(self, candidate: Candidate, child: Child) -> Examined:
        contender = self._contenders[candidate.variant]
        answers = self._scratch / f"{child.pid}.npz"
        order = Open(
            model=str(contender.source.path),
            session_options=candidate.session_options(contender.source.session_options),
            threads=candidate.threads,
            provider=candidate.provider_to_load,
            golden=None if contender.golden is None else str(contender.golden),
            answers=str(answers),
        )
        opened = child.ask(order, Opened, timeout_s=_OPEN_TIMEOUT_S)
        failure = self._wrong(contender, child, answers)
        return Examined(
            failure=failure,
            load_s=opened.load_s,
            memory_bytes=opened.memory_bytes,
            engine=opened.engine,
            takes_batches=opened.takes_batches,
            finite=opened.finite,
        )

    def _wrong(self, contender: Contender, child: Child, answers: Path) -> str | None:
        """What is wrong with its answers. A variant's first candidate is held against the golden outputs, others against it."""
        known = self._answers.get(contender.name)
        if known is not None:
            likeness = alikeness_db(known, answers)
            answers.unlink()
            return None if likeness >= MIN_LIKENESS_DB else f"wrong: {likeness:.0f} dB from what the variant answers otherwise"
        if contender.golden is not None and contender.tolerance is not None:
            check = Check(golden=str(contender.golden), seconds=self._check_s)
            result = child.ask(check, TrialResult, timeout_s=_OPEN_TIMEOUT_S)
            verdict = _judged(contender, contender.golden, contender.tolerance, result)
            if verdict is not None:
                return verdict
        self._answers[contender.name] = answers
        return None


def _judged(contender: Contender, golden: Path, tolerance: Tolerance, result: TrialResult) -> str | None:
    """Why the golden outputs speak against a variant: the gate's own demands, but for accuracy on labels."""
    if result.samples < contender.golden_samples:  # a part of the samples says too little of how many classes agree
        tolerance = msgspec.structs.replace(tolerance, min_agreement=None)
    request = GateRequest(ModelFile(contender.source.path), golden, tolerance)
    verdict = gate.judge(request, result, None)
    return None if verdict.passed else f"wrong: {verdict.reason}"


def alikeness_db(known: Path, answers: Path) -> float:
    """The least likeness of two files of answers, in dB (`parity.likeness_db`)."""
    with np.load(known, allow_pickle=False) as before, np.load(answers, allow_pickle=False) as after:
        if set(before) != set(after):
            return -parity.SQNR_LIMIT_DB
        return min((parity.likeness_db(before[name], after[name]) for name in before), default=parity.SQNR_LIMIT_DB)
