"""The machine under any sequence of events, checked against a small model of what really answers on the device."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from device_agent.errors import IllegalEvent
from device_agent.events import (
    Activate,
    Activated,
    Assigned,
    Effect,
    EmitEvent,
    Event,
    Failed,
    Fetch,
    Fetched,
    GatePassed,
    GateRefused,
    Lost,
    Restarted,
    RollBack,
    RolledBack,
    RunGate,
    SelfCheck,
    SelfCheckPassed,
    Stage,
    Staged,
    Stop,
    Tick,
    Verified,
    Verify,
    Work,
)
from device_agent.guards import Rules
from device_agent.machine import PHASES, step
from device_agent.model_state import ModelState, to_load
from fleet_protocol import codec
from fleet_protocol.states import Assignment, Running

RULES = Rules(probation_s=10, probation_inferences=3, restarts_allowed=2, first_retry_s=1, longest_retry_s=8)
RELEASES = 4


def digest(number: int, kind: str = "0") -> str:
    return "sha256:" + kind * 63 + f"{number:x}"


def assignment(number: int, attempt: int = 0) -> Assignment:
    return Assignment(model="digits", version=f"{number}.0.0", manifest=digest(number), attempt=attempt)


def running(number: int, variant: str = "int8") -> Running:
    return Running(version=f"{number}.0.0", manifest=digest(number), variant=variant, file=digest(number, "f"))


works = st.integers(0, 6)
reasons = st.sampled_from(["it broke", ""])
events: st.SearchStrategy[Event] = st.one_of(
    st.builds(Assigned, st.none() | st.builds(assignment, st.integers(0, RELEASES), st.integers(0, 2))),
    st.builds(Restarted, crashed=st.booleans()),
    st.builds(Tick, st.integers(0, 5), st.integers(0, 2)),
    st.builds(Lost, reasons),
    st.builds(Fetched, works, st.builds(running, st.integers(0, RELEASES))),
    st.builds(GateRefused, works, reasons, another=st.booleans()),
    st.builds(Failed, works, reasons, lasting=st.booleans(), jitter=st.floats(0, 1, exclude_max=True)),
    *(st.builds(kind, works) for kind in (Verified, Staged, GatePassed, Activated, RolledBack, SelfCheckPassed)),
)


@given(st.lists(st.tuples(events, st.floats(0, 20)), max_size=30))
@settings(max_examples=300, deadline=None)
def test_no_sequence_of_events_raises_anything_but_illegal_event_and_every_state_can_be_journalled(
    happened: list[tuple[Event, float]],
) -> None:
    state, now = ModelState(model="digits"), 0.0
    for event, passed in happened:
        now += passed
        try:
            after, effects = step(state, event, now, RULES)
        except IllegalEvent:
            continue
        assert after.phase in PHASES
        assert after.work >= state.work
        assert all(effect.work <= after.work for effect in effects if isinstance(effect, Work))
        assert codec.decode(codec.encode(after), ModelState, limit=1 << 20, what="state") == after
        state = after


class Device(RuleBasedStateMachine):
    """An environment that obeys: results come only for work that was ordered, and are kept back, doubled or lost by a crash."""

    def __init__(self) -> None:
        super().__init__()
        self.state = ModelState(model="digits")
        self.now = 0.0
        self.live: Running | None = None
        """What really answers requests."""
        self.ordered: list[Work] = []
        self.may_end = False
        """Whether what runs may be taken away without another taking its place."""

    def happen(self, event: Event) -> None:
        before = self.state
        self.state, effects = step(before, event, self.now, RULES)
        for effect in effects:
            self.perform(effect, before)

    def perform(self, effect: Effect, before: ModelState) -> None:
        if isinstance(effect, Work):
            assert effect.work == self.state.work
            self.ordered.append(effect)
        elif isinstance(effect, Stop):
            self.live = None
        elif isinstance(effect, EmitEvent) and effect.kind == "committed":
            assert self.live is not None
            assert before.target is not None
            assert self.live.manifest == before.target.manifest

    @rule(number=st.integers(0, RELEASES), attempt=st.integers(0, 2))
    def the_operator_wants(self, number: int, attempt: int) -> None:
        self.happen(Assigned(assignment(number, attempt)))

    @rule()
    def the_operator_removes(self) -> None:
        self.may_end = True
        self.happen(Assigned(None))

    @rule(healthy=st.integers(0, 4), errors=st.sampled_from([0, 0, 0, 1]), passed=st.floats(0, 20))
    def time_passes(self, healthy: int, errors: int, passed: float) -> None:
        self.now += passed
        self.happen(Tick(healthy, errors))

    @precondition(lambda self: self.ordered)
    @rule(at=st.integers(0, 100), good=st.integers(0, 9), lasting=st.booleans())
    def work_ends(self, at: int, good: int, lasting: bool) -> None:
        work = self.ordered[at % len(self.ordered)]
        if work.work == self.state.work:
            self.ordered.remove(work)
        if good == 0:
            self.happen(Failed(work.work, "it broke", lasting=lasting))
        else:
            self.happen(self.result_of(work, refused=good == 1))

    @rule(number=st.integers(0, RELEASES), attempt=st.integers(0, 2), end=st.sampled_from(["commit", "errors", "stay"]))
    def a_release_is_brought_up(self, number: int, attempt: int, end: str) -> None:
        self.happen(Assigned(assignment(number, attempt)))
        while self.current_work() and self.state.phase != "probation":
            work = self.current_work()[0]
            self.ordered.remove(work)
            self.happen(self.result_of(work, refused=False))
        if self.state.phase == "probation" and end != "stay":
            self.happen(Tick(3, 0) if end == "commit" else Tick(0, 1))

    def current_work(self) -> list[Work]:
        return [work for work in self.ordered if work.work == self.state.work]

    def result_of(self, work: Work, *, refused: bool) -> Event:
        current = work.work == self.state.work
        match work:
            case Fetch():
                number = int(work.target.manifest[-1], 16)
                return Fetched(work.work, running(number, f"variant-{len(work.passed_over)}"))
            case Verify():
                return Verified(work.work)
            case Stage():
                return Staged(work.work)
            case RunGate():
                another = len(work.passed_over) < 2
                return GateRefused(work.work, "wrong", another=another) if refused else GatePassed(work.work)
            case Activate():
                if current:
                    self.live = work.candidate
                return Activated(work.work)
            case RollBack():
                if current:
                    self.live = work.fallback
                return RolledBack(work.work)
            case _:
                assert isinstance(work, SelfCheck)
                return SelfCheckPassed(work.work)

    @rule(crashed=st.booleans())
    def the_process_restarts(self, crashed: bool) -> None:
        self.ordered.clear()
        rolling = self.state.phase == "rolling_back"
        self.happen(Restarted(crashed=crashed))
        self.may_end |= rolling and self.state.phase == "idle"
        self.live = to_load(self.state)

    @precondition(lambda self: self.live is not None)
    @rule()
    def the_disk_loses_what_runs(self) -> None:
        self.may_end = True
        self.ordered.clear()
        self.live = None
        self.happen(Lost("damaged"))

    @invariant()
    def at_rest_the_report_names_what_really_answers(self) -> None:
        if self.state.phase == "idle":
            assert self.state.running == self.live
            assert self.state.target is None
            assert self.state.candidate is None

    @invariant()
    def on_probation_the_report_names_what_really_answers(self) -> None:
        if self.state.phase == "probation":
            assert self.state.running == self.live

    @invariant()
    def what_the_operator_removed_is_gone_at_rest(self) -> None:
        if self.state.phase == "idle" and self.state.removed:
            assert self.live is None

    @invariant()
    def what_was_committed_goes_on_answering(self) -> None:
        if self.state.phase == "idle" and self.live is not None:
            self.may_end = False
            self.committed = True
        if getattr(self, "committed", False) and not self.may_end:
            assert self.live is not None

    @invariant()
    def nothing_refused_runs_at_rest(self) -> None:
        if self.state.phase == "idle" and self.live is not None:
            assert self.live.manifest not in {each.manifest for each in self.state.refused}

    @invariant()
    def the_state_survives_the_journal(self) -> None:
        assert msgspec.json.decode(msgspec.json.encode(self.state), type=ModelState) == self.state


TestDevice = Device.TestCase
TestDevice.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
