"""What tuning gains over onnxruntime with its defaults, of a model as it was given (issue 3's figures).

    python -m bench.tuned [--models FOLDER] [--bundles FOLDER] [NAME …]

A user converts a model and tunes the bundle: each model of the folder (NAME.onnx, with its samples in NAME.npz, as
`bench.converters` takes them; without `--models` the digits) goes through both, and what is chosen races the given file as
onnxruntime runs it by itself. What tuning finds for the given file alone runs beside it, and so does every variant. All are
called through `runtime`. A model is one line of JSON, printed as soon as it is measured. Bundles are kept in the folder
`--bundles`, and those that are there already are not made again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

import converters
from bench.converters import Case, cases
from runtime import sources
from runtime.device_facts import usable_cores
from runtime.sources import Contender
from runtime.tuning import measurement, tuner
from runtime.tuning.record import Candidate, Condition, Objective
from runtime.tuning.space import Space

TUNING_S: Final = 20.0
OPENINGS: Final = 3
ROUNDS: Final = 9
"""Of each opening, as are `CPU_ROUNDS`."""
CPU_ROUNDS: Final = 2
GIVEN: Final = "given"
"""The file as it came, beside the variants of its bundle."""


def measure() -> dict[str, object]:
    return dict(converted())


def converted(
    models: Path | None = None, names: Sequence[str] = (), *, bundles: Path | None = None
) -> Iterator[tuple[str, dict[str, object]]]:
    """Each model's name and figures, as they come."""
    with tempfile.TemporaryDirectory(prefix="edgeward-bench-") as folder:
        for case in cases(Path(folder), models):
            if names and case.name not in names:
                continue
            print(f"measuring {case.name} …", file=sys.stderr)
            yield case.name, _converted(case, (bundles or Path(folder)) / case.name, Path(folder))


def alone(path: Path, scratch: Path, objective: Objective | None = None) -> dict[str, object]:
    """The tuned way of running one file against onnxruntime's default, and against all threads and spinning tried by hand."""
    objective = objective or Objective()
    chosen = measurement.tune(path, seconds=TUNING_S, objective=objective).chosen
    published = Candidate(variant=chosen.variant)
    default = Candidate(variant=chosen.variant, spinning="on")
    space = Space((published,), usable_cores())
    by_hand = [default, published, *space.threadings(published), *space.spins(published)]
    race = _Race(sources.contenders(path), objective, scratch)
    race.run(list(dict.fromkeys([chosen, *by_hand])))
    return {
        "chosen": chosen.describe(),
        "untuned": published.describe(),
        **race.figures(chosen, default, by_hand),
        "each ÷ default: idle, busy, CPU at 10 Hz": race.table(default),
    }


def _converted(case: Case, bundle: Path, scratch: Path) -> dict[str, object]:
    """What convert and tune give together, and tune by itself, by several objectives."""
    if not bundle.exists():
        arrays = case.inputs | ({} if case.labels is None else {"label": case.labels.astype(np.int64)})
        converters.convert(case.model, arrays, model="bench", version="1.0.0", out=bundle)
    made = sources.contenders(bundle)
    given = replace(sources.contenders(case.model)[0], name=GIVEN, golden=made[0].golden)
    contenders, default = (given, *made), Candidate(variant=GIVEN, spinning="on")
    objectives = {
        "tuned": Objective(),
        "tuned for a busy device": Objective(condition="busy"),
        "tuned for the least CPU time": Objective(goal="cpu"),
    }
    chosen = {name: _tuned(made, objective) for name, objective in objectives.items()}
    chosen["the given file, tuned"] = _tuned([given], Objective())
    by_hand = [default, *Space(tuple(map(measurement.as_published, contenders)), usable_cores()).entrants]
    race = _Race(contenders, Objective(), scratch)
    race.run(list(dict.fromkeys([*chosen.values(), *by_hand])))
    return {
        **{
            name: {"chosen": each.describe(), **race.figures(each, default, [default, *race.field])}
            for name, each in chosen.items()
        },
        "each ÷ default: idle, busy, CPU at 10 Hz": race.table(default),
    }


def _tuned(contenders: Sequence[Contender], objective: Objective) -> Candidate:
    return measurement.measured(contenders, objective, seconds=TUNING_S, cores=usable_cores()).chosen


class _Race:
    """Candidates that take turns; seconds by condition, candidate and round, and CPU seconds an inference."""

    def __init__(self, contenders: Sequence[Contender], objective: Objective, scratch: Path) -> None:
        self._contenders, self._objective, self._scratch = contenders, objective, scratch
        self._times: dict[Condition, dict[Candidate, list[float]]] = {"idle": {}, "busy": {}}
        self._cpu: dict[Candidate, list[float]] = {}
        self.field: list[Candidate] = []

    def run(self, field: list[Candidate]) -> None:
        """Every candidate is opened `OPENINGS` times: where its memory happens to lie makes 5 % of a tiny model's time."""
        self.field = field
        for _ in range(OPENINGS):
            device = measurement.MeasuredDevice(self._contenders, self._objective, self._scratch, check_s=1.0)
            with contextlib.closing(device):
                self._take_turns(device)

    def figures(self, chosen: Candidate, default: Candidate, by_hand: Sequence[Candidate]) -> dict[str, float]:
        """What one of the field costs ÷ the default, and ÷ the best of those tried by hand."""
        found: dict[str, float] = {}
        for condition, times in self._times.items():
            to = {each: _paired(times[each], times[default]) for each in self.field}
            found[f"{condition} ÷ default"] = round(to[chosen], 3)
            found[f"{condition} ÷ best by hand"] = round(to[chosen] / min(to[each] for each in by_hand), 3)
        return found | {"CPU at 10 Hz ÷ default": round(_paired(self._cpu[chosen], self._cpu[default]), 4)}

    def table(self, default: Candidate) -> dict[str, list[float]]:
        """All of the field ÷ the default."""
        figures = (*self._times.values(), self._cpu)
        return {each.describe(): [round(_paired(of[each], of[default]), 4) for of in figures] for each in self.field}

    def _take_turns(self, device: measurement.MeasuredDevice) -> None:
        for candidate in self.field[:]:
            failure = device.examine(candidate).failure
            if failure is not None:  # a variant that this processor ruins, which tuning leaves out too
                print(f"{candidate.describe()} is left out: {failure}", file=sys.stderr)
                self.field.remove(candidate)
        for condition, found in self._times.items():
            for at in range(ROUNDS):
                for candidate in self.field if at % 2 else reversed(self.field):
                    burst = device.burst(candidate, condition, tuner.ROUND_S)
                    assert burst is not None
                    found.setdefault(candidate, []).append(burst.p50_s)
        for candidate in self.field * CPU_ROUNDS:
            spent = device.cpu(candidate)
            assert spent is not None
            self._cpu.setdefault(candidate, []).append(spent)


def _paired(ours: list[float], theirs: list[float]) -> float:
    """The median of the ratios of each round: what slows a whole round cancels."""
    return statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, help="a folder with NAME.onnx and NAME.npz")
    parser.add_argument("--bundles", type=Path, help="where the bundles are kept")
    parser.add_argument("names", nargs="*", help="models to measure; all of them without")
    given = parser.parse_args()
    for name, figures in converted(given.models, given.names, bundles=given.bundles):
        print(json.dumps({name: figures}), flush=True)


if __name__ == "__main__":
    main()
