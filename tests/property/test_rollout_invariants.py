"""Whatever devices do, in whatever order, the rollout planner keeps its promises."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fleet_protocol.digests import digest_of
from fleet_protocol.states import ModelReport, Phase, Refusal, Running
from model_registry import rollout as planner
from model_registry.rollout import DeviceView, Release, Rollout

OLD = Release("1.0.0", digest_of(b"old"))
NEW = Release("1.1.0", digest_of(b"new"))
AT_WORK: list[Phase] = ["fetching", "verifying", "staged", "gating", "activating", "probation"]

NAMES = st.lists(st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True), min_size=1, max_size=12, unique=True)
STEPS = st.lists(st.sampled_from([0.05, 0.1, 0.25, 0.5, 0.75]), max_size=3, unique=True).map(lambda each: (*sorted(each), 1.0))


def report(release: Release, phase: Phase, refused: tuple[Refusal, ...] = ()) -> ModelReport:
    runs = Running(version=release.version, manifest=release.manifest, variant="float32", file=digest_of(b"f"))
    return ModelReport(model="digits", phase=phase, running=runs, refused=refused)


REFUSED = Refusal(version=NEW.version, manifest=NEW.manifest, attempt=0, phase="gating", reason="no")
REPORTS = st.one_of(
    st.none(),
    st.builds(report, st.sampled_from([OLD, NEW]), st.sampled_from(["idle", "rolling_back", *AT_WORK])),
    st.just(report(OLD, "idle", (REFUSED,))),
)


@st.composite
def situations(draw: st.DrawFn) -> tuple[Rollout, list[DeviceView]]:
    """A running rollout that has reached any of its devices, which say anything."""
    names = draw(NAMES)
    steps = draw(STEPS)
    step = draw(st.integers(0, len(steps) - 1))
    reached = draw(st.lists(st.sampled_from(names), unique=True, max_size=planner.quota(steps[step], len(names))))
    rollout = Rollout(
        id=draw(st.integers(1, 9)),
        model="digits",
        release=NEW,
        cohort="all",
        steps=steps,
        max_failures=draw(st.integers(0, 4)),
        step=step,
        reached=dict.fromkeys(reached, OLD),
    )
    devices = [DeviceView(name, draw(st.booleans()), NEW if name in reached else OLD, draw(REPORTS)) for name in names]
    return rollout, devices


def carried_out(devices: list[DeviceView], decided: planner.Plan) -> list[DeviceView]:
    return [replace(each, assigned=decided.assign.get(each.name, each.assigned)) for each in devices]


def says_that_it_runs_it(device: DeviceView) -> bool:
    said = device.report
    return said is not None and said.phase == "idle" and said.running is not None and said.running.manifest == NEW.manifest


@given(situations())
def test_success_means_that_every_device_runs_it_but_for_the_failures_that_were_allowed(
    situation: tuple[Rollout, list[DeviceView]],
) -> None:
    rollout, devices = situation
    decided = planner.plan(rollout, devices)
    if decided.rollout.state == "succeeded":
        committed = [each for each in devices if says_that_it_runs_it(each)]
        assert committed
        assert len(devices) - len(committed) <= rollout.max_failures


@given(situations())
def test_a_device_counts_as_committed_only_when_it_says_that_it_runs_the_release(
    situation: tuple[Rollout, list[DeviceView]],
) -> None:
    rollout, devices = situation
    for device in devices:
        if planner.verdict(rollout, device) == "committed":
            assert says_that_it_runs_it(device)


@given(situations())
def test_no_more_devices_are_reached_than_the_step_allows(situation: tuple[Rollout, list[DeviceView]]) -> None:
    rollout, devices = situation
    decided = planner.plan(rollout, devices).rollout
    assert len(decided.reached) <= planner.quota(decided.steps[decided.step], len(devices))


@given(situations())
def test_a_step_is_left_only_when_all_its_devices_have_committed_or_failed(
    situation: tuple[Rollout, list[DeviceView]],
) -> None:
    rollout, devices = situation
    decided = planner.plan(rollout, devices).rollout
    if decided.step > rollout.step:
        before = [planner.verdict(rollout, each) for each in devices if each.name in rollout.reached]
        assert set(before) <= {"committed", "failed"}


@given(situations())
def test_failure_takes_back_every_device_that_was_told(situation: tuple[Rollout, list[DeviceView]]) -> None:
    rollout, devices = situation
    decided = planner.plan(rollout, devices)
    if decided.rollout.state == "failed":
        after = {each.name: each.assigned for each in carried_out(devices, decided)}
        assert all(after[name] == before for name, before in decided.rollout.reached.items())


@given(situations())
def test_deciding_twice_on_the_same_reports_changes_nothing_more(situation: tuple[Rollout, list[DeviceView]]) -> None:
    rollout, devices = situation
    decided = planner.plan(rollout, devices)
    assert planner.plan(decided.rollout, carried_out(devices, decided)) == planner.Plan(decided.rollout, {})


@given(situations())
def test_devices_that_were_not_reached_are_never_touched(situation: tuple[Rollout, list[DeviceView]]) -> None:
    rollout, devices = situation
    decided = planner.plan(rollout, devices)
    assert set(decided.assign) <= set(decided.rollout.reached)
    assert rollout.reached.items() <= decided.rollout.reached.items()


@dataclass
class Simulated:
    """A device that does what it is told in the order that Hypothesis chooses."""

    runs: Release = OLD
    assigned: Release | None = OLD
    online: bool = True
    said: ModelReport | None = None


class RolloutLife(RuleBasedStateMachine):
    """One rollout from its start to its end, with devices that work, refuse, come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.devices = {f"d{at}": Simulated() for at in range(6)}
        self.rollout = Rollout(1, "digits", NEW, "all", (0.2, 0.5, 1.0), 1)
        self.most_reached = 0

    def views(self) -> list[DeviceView]:
        return [DeviceView(name, each.online, each.assigned, each.said) for name, each in self.devices.items()]

    @rule()
    def decide(self) -> None:
        decided = planner.plan(self.rollout, self.views())
        self.rollout = decided.rollout
        for name, release in decided.assign.items():
            self.devices[name].assigned = release

    @rule(name=st.sampled_from([f"d{at}" for at in range(6)]))
    def obey(self, name: str) -> None:
        device = self.devices[name]
        if device.online and device.assigned is not None:
            device.runs = device.assigned
            device.said = report(device.runs, "idle")

    @rule(name=st.sampled_from([f"d{at}" for at in range(6)]), phase=st.sampled_from(AT_WORK))
    def work(self, name: str, phase: Phase) -> None:
        self.devices[name].said = report(self.devices[name].runs, phase)

    @precondition(lambda self: self.rollout.state == "running")
    @rule(name=st.sampled_from([f"d{at}" for at in range(6)]))
    def refuse(self, name: str) -> None:
        device = self.devices[name]
        if device.assigned == NEW and device.runs == OLD:
            device.said = report(OLD, "idle", (REFUSED,))

    @rule(name=st.sampled_from([f"d{at}" for at in range(6)]))
    def come_or_go(self, name: str) -> None:
        self.devices[name].online = not self.devices[name].online

    @invariant()
    def nobody_is_told_before_being_reached(self) -> None:
        told = {name for name, each in self.devices.items() if each.assigned == NEW}
        assert told <= set(self.rollout.reached)

    @invariant()
    def an_ended_rollout_left_no_device_in_between(self) -> None:
        if self.rollout.state == "failed":
            assert all(each.assigned == OLD for each in self.devices.values())
        if self.rollout.state == "succeeded":
            assert all(each.assigned == NEW for each in self.devices.values())


TestRolloutLife = RolloutLife.TestCase
