"""The search for the best way to run a model: what to measure next, and what the measurements say. Pure.

It asks a `Device` (`runtime.tuning.measurement` is the real one) and never looks at a clock or an engine itself, so that tests
can give it any device. Three things make its answer trustworthy on a noisy machine:

- Every measurement of a candidate stands beside one of the default in the same round, and only ratios within a round count.
- The field is halved again and again, so that most of the time goes to the close race.
- The default is always in the race, and wins unless another is better beyond the noise that was seen.

Dimensions are searched one after another, not as a product: variants as they are, then execution providers, threads and
spinning for the best two, then shorter and longer spinning and optimisation levels for the best of those.

onnxruntime's own default, whose threads spin, is raced to the end beside ours: it is what people would have without us. Usually
it costs too much CPU time to be chosen; but where it is faster than our default, ours is no safe place to stay, and the best
that was measured is chosen even within the noise.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from runtime.errors import CannotTune
from runtime.tuning.record import Burst, Candidate, Condition, Examined, Objective, Row, Tuning
from runtime.tuning.space import Space, varied

MIN_GAIN: Final = 0.02
"""A candidate that gains less than this is no reason to leave the default."""
NEAR: Final = 0.02
"""Of candidates this near the best, the one is chosen that is best in both conditions together."""
WORTHWHILE: Final = 0.1
"""Less CPU time or memory than the default's by this share is worth leaving it."""
ROUND_S: Final = 0.03
"""How long one candidate runs in one round."""
FIRST_ROUNDS: Final = 3
WIDTH: Final = 4
"""How many candidates beside the two defaults are open at once: each holds the model in memory."""
REFERENCE_EVERY: Final = 4
"""onnxruntime's own default runs in one of so many rounds only: what spins has to settle afterwards."""
HOPELESS: Final = 1.5
"""A candidate this much slower than the best so far is closed at once."""
BUDGET_SLACK: Final = 1.25
"""At entry, when CPU time has been measured once only."""
ENTRY_SHARE: Final = 0.55
"""The share of the time in which candidates may enter; the rest belongs to the race between the best."""
VARIANTS_SHARE: Final = 0.8
"""The same for variants as they are: which answers are right is the first question."""
BATCH_SHARE: Final = 0.05
BATCH_SIZES: Final = (2, 4, 8, 16)


class Device(Protocol):
    """What the search asks of the device. A candidate is open from `examine` to `release`."""

    def elapsed(self) -> float:
        """Seconds since tuning began."""
        ...

    def examine(self, candidate: Candidate) -> Examined:
        """Open the candidate, hold its answers against what they must be, and weigh it."""
        ...

    def burst(self, candidate: Candidate, condition: Condition, seconds: float) -> Burst | None:
        """Run for about so long, at least once; None when it failed."""
        ...

    def cpu(self, candidate: Candidate) -> float | None:
        """CPU seconds of one inference at the objective's rate; None when it failed."""
        ...

    def batch_gains(self, candidate: Candidate, sizes: Sequence[int], seconds: float) -> dict[int, float]:
        """Throughput with batches of these sizes ÷ that of single requests, within about so long."""
        ...

    def pads(self, candidate: Candidate) -> bool:
        """Whether padding sequences changes none of its answers."""
        ...

    def release(self, candidate: Candidate) -> None:
        """Close it."""
        ...


Progress = Callable[[str, float], None]
"""Told what is being measured, and which share in [0, 1] of the time is over."""


def search(
    space: Space, device: Device, objective: Objective, *, seconds: float, on_progress: Progress | None = None
) -> Tuning:
    """The best way to run the model, found within about `seconds`. Raises `CannotTune` when not even the default works."""
    race = _Race(device, objective, seconds, on_progress or (lambda *_: None))
    race.begin(space.variants)
    race.admit(space.entrants, within=VARIANTS_SHARE)
    race.refer(space)
    for best in race.leaders(2, one_a_variant=True):
        race.admit([*space.elsewhere(best), *space.threadings(best)])
    for best in race.leaders(1):
        race.admit(space.spins(best), instead_of=best)
    for best in race.leaders(1):
        race.admit(space.levels(best), instead_of=best)
    race.run_off()
    return race.tuning()


@dataclass(slots=True)
class _Record:
    """What is known of one candidate. Bursts by condition and round."""

    examined: Examined
    bursts: dict[Condition, dict[int, Burst]] = field(default_factory=lambda: {"idle": {}, "busy": {}})
    cpu: list[float] = field(default_factory=list)
    out: str | None = None
    """Why it is no longer in the race."""

    def median(self, condition: Condition) -> Burst | None:
        found = self.bursts[condition].values()
        if not found:
            return None
        return Burst(
            p50_s=statistics.median(each.p50_s for each in found), p95_s=statistics.median(each.p95_s for each in found)
        )

    def cpu_s(self) -> float | None:
        return statistics.median(self.cpu) if self.cpu else None


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio to the default, and how far off it may be."""

    value: float
    noise: float

    def beats(self, margin: float = MIN_GAIN) -> bool:
        """Whether it is below 1 by more than noise and margin."""
        return self.value + self.noise < 1 - margin


def ratio_of(pairs: Sequence[tuple[float, float]]) -> Ratio | None:
    """The median of candidate ÷ default over the rounds, with the noise of that median; None without rounds.

    The noise is two standard errors, estimated from the median absolute deviation, which outliers do not move.
    """
    if not pairs:
        return None
    ratios = [ours / theirs for ours, theirs in pairs]
    middle = statistics.median(ratios)
    deviation = statistics.median(abs(ratio - middle) for ratio in ratios)
    spread = 1.4826 * deviation if len(ratios) > 2 else middle * 0.1
    return Ratio(middle, 2 * 1.2533 * spread / math.sqrt(len(ratios)))


class _Race:
    """All records, and the rules of who goes on."""

    def __init__(self, device: Device, objective: Objective, seconds: float, on_progress: Progress) -> None:
        self._device = device
        self._objective = objective
        self._seconds = seconds
        self._on_progress = on_progress
        self._records: dict[Candidate, _Record] = {}
        self._default: Candidate
        self._reference: Candidate | None = None
        """onnxruntime's own default."""
        self._round = 0

    def begin(self, variants: Sequence[Candidate]) -> None:
        """The first variant that works here enters: the default. Raises `CannotTune` when none does."""
        for variant in variants:
            self._default = variant
            if self._enter(variant).out is None:
                self._rounds([variant], ["idle"], 1)
                self._measure_cpu([variant])
                return
        reasons = "; ".join(f"{each.describe()}: {self._records[each].out}" for each in variants)
        raise CannotTune(f"No variant works on this device: {reasons}")

    def refer(self, space: Space) -> None:
        """Let the engine's own default enter, where it is another one than ours."""
        if self._default.engine != "onnxruntime" or space.cores == 1 or self._left(ENTRY_SHARE) <= 0:
            return
        reference = varied(self._default, spinning="on")
        if self._enter(reference).out is None:
            self._reference = reference
            self._measure_cpu([reference])

    def admit(
        self, candidates: Iterable[Candidate], *, instead_of: Candidate | None = None, within: float = ENTRY_SHARE
    ) -> None:
        """Let them enter one by one, each beside the default; keep the best `WIDTH` open.

        With `instead_of`, only what is better than that one stays, so that twins do not fill the field.
        """
        for candidate in candidates:
            if candidate in self._records:
                continue
            if self._left(within) <= 0:
                self._records[candidate] = _Record(Examined(), out="not tried: the time was over")
                continue
            self._try(candidate)
            if instead_of is not None and self._is_open(candidate) and not self._is_better(candidate, instead_of):
                self._drop(candidate, f"no better than {instead_of.describe()}")
            for slowest in self._ranked()[WIDTH:]:
                self._drop(slowest, "slower than others")

    def leaders(self, count: int, *, one_a_variant: bool = False) -> list[Candidate]:
        """The best so far, the default among them; with `one_a_variant` only the best of each."""
        ranked = sorted([self._default, *self._ranked()], key=self._score)
        if one_a_variant:
            ranked = [each for at, each in enumerate(ranked) if each.variant not in {other.variant for other in ranked[:at]}]
        return ranked[:count]

    def run_off(self) -> None:
        """Halve the field until two are left, then race these, and the default, beside a neighbour too."""
        while len(field := self._ranked()) > 2:
            share = (self._left(1 - BATCH_SHARE)) / 4
            self._contest([self._default, *field], [self._objective.condition], share)
            for slower in self._ranked()[max(2, (len(field) + 1) // 2) :]:
                self._drop(slower, "slower than others")
        finalists = [self._default, *self._ranked()]
        self._measure_cpu(self._with_reference(finalists))
        main = self._objective.condition
        other: Condition = "idle" if main == "busy" else "busy"
        conditions = [main, main, other]  # the objective's decides, so it is measured most
        self._contest([each for each in finalists if self._is_open(each)], conditions, self._left(1 - BATCH_SHARE))

    def tuning(self) -> Tuning:
        """The choice, its reason, and the table, best first."""
        chosen, reason = self._choice()
        reason += self._records[chosen].examined.doubt
        gains = self._batch_gains(chosen)
        pads = bool(gains) and self._device.pads(chosen)
        for candidate in self._with_reference([*self._ranked(), self._default]):
            self._device.release(candidate)
        rows = [self._row(candidate, record, chosen) for candidate, record in self._records.items()]
        rows.sort(key=lambda row: (row.candidate != chosen, row.idle_ratio is None, row.idle_ratio or 0.0))
        seconds = round(self._device.elapsed(), 3)
        return Tuning(chosen=chosen, reason=reason, rows=tuple(rows), batch_gains=gains, pads=pads, seconds=seconds)

    def _try(self, candidate: Candidate) -> None:
        record = self._enter(candidate)
        condition = self._objective.condition
        self._rounds([self._default, candidate], [condition], FIRST_ROUNDS)
        best = min((self._score(each) for each in [self._default, *self._ranked()]), default=math.inf)
        if record.out is None and self._score(candidate) > HOPELESS * best and self._objective.goal == "latency":
            self._drop(candidate, "much slower than others")
        if record.out is None:
            self._measure_cpu([candidate])
        if record.out is None and self._is_over_budget(candidate, slack=BUDGET_SLACK):
            self._drop(candidate, self._over_budget(candidate))

    def _enter(self, candidate: Candidate) -> _Record:
        self._on_progress(candidate.describe(), min(1.0, self._device.elapsed() / self._seconds))
        examined = self._device.examine(candidate)
        record = self._records[candidate] = _Record(examined)
        limit = self._objective.max_memory_bytes
        if examined.failure is not None:
            self._drop(candidate, examined.failure)
        elif limit is not None and (examined.memory_bytes or 0) > limit:
            self._drop(candidate, f"over the memory limit of {limit / 1e6:.0f} MB")
        return record

    def _drop(self, candidate: Candidate, why: str) -> None:
        self._records[candidate].out = why
        self._device.release(candidate)

    def _is_better(self, candidate: Candidate, other: Candidate) -> bool:
        return self._score(candidate) < (1 - MIN_GAIN) * self._score(other)

    def _fail(self, candidate: Candidate) -> None:
        """It stopped answering under way. Nothing can be said without the default. Raises `CannotTune`."""
        if candidate == self._default:
            raise CannotTune(f"{candidate.describe()}, the default, failed while it was measured. Try the model in the gate.")
        self._drop(candidate, "failed while it was measured")

    def _is_open(self, candidate: Candidate) -> bool:
        return self._records[candidate].out is None

    def _ranked(self) -> list[Candidate]:
        """All in the race but the two defaults, best first."""
        apart = (self._default, self._reference)
        there = [each for each, record in self._records.items() if record.out is None and each not in apart]
        return sorted(there, key=self._score)

    def _with_reference(self, candidates: list[Candidate]) -> list[Candidate]:
        """These, and the engine's own default where there is one."""
        return candidates if self._reference is None else [*candidates, self._reference]

    def _left(self, share: float) -> float:
        return self._seconds * share - self._device.elapsed()

    def _contest(self, field: list[Candidate], conditions: list[Condition], seconds: float) -> None:
        """Rounds until the time is over, and at least as many as it takes to know the noise; none when it is over already."""
        begun, rounds = self._device.elapsed(), 0
        while seconds > 0 and len(field) > 1 and (rounds < FIRST_ROUNDS or self._device.elapsed() - begun < seconds):
            self._on_progress(f"the best {len(field)} side by side", min(1.0, self._device.elapsed() / self._seconds))
            self._rounds(field if rounds % REFERENCE_EVERY else self._with_reference(field), conditions, 1)
            rounds += 1

    def _rounds(self, field: list[Candidate], conditions: list[Condition], count: int) -> None:
        """Each in turn, `count` times; the order turns round so that nobody always follows the same one."""
        for condition in conditions:
            for _ in range(count):
                self._round += 1
                for candidate in field if self._round % 2 else reversed(field):
                    self._burst(candidate, condition)

    def _burst(self, candidate: Candidate, condition: Condition) -> None:
        if not self._is_open(candidate):
            return
        burst = self._device.burst(candidate, condition, ROUND_S)
        if burst is None:
            self._fail(candidate)
        else:
            self._records[candidate].bursts[condition][self._round] = burst

    def _measure_cpu(self, field: list[Candidate]) -> None:
        for candidate in field:
            if not self._is_open(candidate):
                continue
            cpu = self._device.cpu(candidate)
            if cpu is None:
                self._fail(candidate)
            else:
                self._records[candidate].cpu.append(cpu)

    def _ratio(self, candidate: Candidate, condition: Condition) -> Ratio | None:
        theirs = self._records[self._default].bursts[condition]
        ours = self._records[candidate].bursts[condition]
        at = self._objective.percentile
        return ratio_of([(ours[each].at(at), theirs[each].at(at)) for each in ours])  # the default ran in every round

    def _score(self, candidate: Candidate) -> float:
        """What the objective wants least, as a ratio to the default; infinite where it is not known."""
        record, default = self._records[candidate], self._records[self._default]
        if self._objective.goal == "cpu":
            return _divided(record.cpu_s(), default.cpu_s())
        if self._objective.goal == "memory":
            return _divided(record.examined.memory_bytes, default.examined.memory_bytes)
        ratio = self._ratio(candidate, self._objective.condition)
        return math.inf if ratio is None else ratio.value

    def _choice(self) -> tuple[Candidate, str]:
        """The best that is better than the default beyond doubt, or the default."""
        better = []
        for candidate in self._with_reference(self._ranked()):
            objection = self._objection(candidate)
            if objection is None:
                better.append(candidate)
            else:
                self._records[candidate].out = objection
                self._device.release(candidate)
        if not better:
            return self._default, "No other way was better than the default beyond the noise of the measurements."
        best = min(map(self._score, better))
        near = [each for each in better if self._score(each) <= best * (1 + NEAR)]
        chosen = min(near, key=lambda each: self._score(each) * self._other_score(each))
        return chosen, self._praise(chosen)

    def _objection(self, candidate: Candidate) -> str | None:
        """Why a finalist may not replace the default; None when it may."""
        main = self._ratio(candidate, self._objective.condition)
        if self._is_over_budget(candidate):
            return self._over_budget(candidate)
        faster = main is not None and (main.beats() if candidate == self._reference else self._is_faster(main))
        if main is None or (self._objective.goal == "latency" and not faster):
            return "not faster than the default beyond noise"
        if self._objective.goal != "latency":
            slower = main.value - main.noise > 1 + MIN_GAIN
            return "slower than the default" if slower else self._worthless(candidate)
        return None

    def _is_faster(self, ratio: Ratio) -> bool:
        """Beyond doubt; or at all, where the engine's own default shows that ours is slow here."""
        return ratio.beats() or (self._is_outrun() and ratio.value < 1 - MIN_GAIN)

    def _is_outrun(self) -> bool:
        """Whether the engine's own default is probably faster than ours."""
        ratio = None if self._reference is None else self._ratio(self._reference, self._objective.condition)
        return ratio is not None and ratio.value + ratio.noise / 2 < 1 - MIN_GAIN

    def _worthless(self, candidate: Candidate) -> str | None:
        score = self._score(candidate)
        return None if score < 1 - WORTHWHILE else f"{score:.2f} of the default's {self._objective.goal}: no gain"

    def _allowed_cpu(self) -> float:
        known = [cpu for record in self._records.values() if (cpu := record.cpu_s()) is not None]
        return self._objective.cpu_budget * min(known, default=math.inf)

    def _is_over_budget(self, candidate: Candidate, *, slack: float = 1.0) -> bool:
        return (self._records[candidate].cpu_s() or 0.0) > self._allowed_cpu() * slack

    def _over_budget(self, candidate: Candidate) -> str:
        cpu = self._records[candidate].cpu_s() or 0.0
        return f"over the CPU budget: {cpu * 1e3:.2f} ms an inference, {self._allowed_cpu() * 1e3:.2f} ms allowed"

    def _other_score(self, candidate: Candidate) -> float:
        other: Condition = "idle" if self._objective.condition == "busy" else "busy"
        ratio = self._ratio(candidate, other)
        return math.inf if ratio is None else ratio.value

    def _praise(self, candidate: Candidate) -> str:
        parts = []
        places: tuple[tuple[Condition, str], ...] = (("idle", "idle"), ("busy", "beside a busy neighbour"))
        for condition, place in places:
            ratio = self._ratio(candidate, condition)
            if ratio is not None:
                parts.append(f"{ratio.value:.2f} of the default's latency {place} (±{ratio.noise:.2f})")
        cpu, before = self._records[candidate].cpu_s(), self._records[self._default].cpu_s()
        if cpu is not None and before is not None:
            parts.append(f"{cpu / before:.2f} of its CPU time")
        return ", ".join(parts) + "."

    def _batch_gains(self, chosen: Candidate) -> dict[int, float]:
        if not self._records[chosen].examined.takes_batches:
            return {}
        return self._device.batch_gains(chosen, BATCH_SIZES, max(0.2, self._seconds * BATCH_SHARE))

    def _row(self, candidate: Candidate, record: _Record, chosen: Candidate) -> Row:
        idle, busy = self._ratio(candidate, "idle"), self._ratio(candidate, "busy")
        main = busy if self._objective.condition == "busy" else idle
        return Row(
            candidate=candidate,
            verdict=self._verdict(candidate, record, chosen),
            idle=record.median("idle"),
            busy=record.median("busy"),
            idle_ratio=None if idle is None else idle.value,
            busy_ratio=None if busy is None else busy.value,
            noise=None if main is None else main.noise,
            cpu_s=record.cpu_s(),
            memory_bytes=record.examined.memory_bytes,
            load_s=record.examined.load_s,
            engine=record.examined.engine,
        )

    def _verdict(self, candidate: Candidate, record: _Record, chosen: Candidate) -> str:
        if candidate == chosen:
            return "chosen, the default" if candidate == self._default else "chosen"
        if candidate == self._default:
            return "the default"
        return record.out or "as good, and no better in both conditions together"


def _divided(ours: float | None, theirs: float | None) -> float:
    return math.inf if ours is None or not theirs else ours / theirs
