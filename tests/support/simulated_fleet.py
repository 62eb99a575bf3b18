"""A fleet in one thread: the real agent, trust, worker and runtime over a simulated broker, on a clock that tests move.

Nothing here replaces our own code: what is simulated is the broker, the clock, the process (which can be killed at any point)
and the gate's child process, whose work is done in this one.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from device_agent import inputs
from device_agent.agent import Agent, Surroundings
from device_agent.content import ContentStore
from device_agent.events import Result, Work
from device_agent.fetch import BlobFetcher, MetadataFetcher
from device_agent.guards import Rules
from device_agent.journal import Entry, Journal
from device_agent.link import Cancellation, ChunkLink
from device_agent.model_state import ModelState
from device_agent.outbox import Outbox
from device_agent.perform import Bounds, Gate, Parts, Performer, Progress
from device_agent.reporter import Reporter, will_of
from device_agent.slots import Slots
from device_agent.trust import Director, Releases
from device_agent.worker import Job
from device_agent.workshop import Workshop
from fleet_io.simulated import SimulatedBroker, SimulatedTransport
from fleet_protocol import codec, topics
from fleet_protocol.digests import digest_of
from fleet_protocol.states import Assignment, DesiredState, ReportedState, decode_reported
from fleet_protocol.telemetry import Acknowledged
from fleet_protocol.transfer import Answer
from model_registry import director as registry_director
from model_registry.blobs import DirectoryBlobStore
from model_registry.worker import ChunkWorker, WorkerLimits
from runtime import ModelHost, trial
from runtime.gate import GateRequest, GateVerdict, judge
from runtime.tuning.readiness import Effort
from tests.support.releases import Release, SignedMetadata, Signers

START = 1_800_000_000.0
RULES = Rules(probation_s=10.0, probation_inferences=5, restarts_allowed=3, first_retry_s=1.0, longest_retry_s=60.0)


MOST_DEATHS = 50


class Killed(BaseException):
    """The process dies here: nothing catches it but the harness."""


@dataclass
class SimulatedClock:
    """Time that only tests and waiting move."""

    elapsed: float = 0.0

    def now(self) -> float:
        return START + self.elapsed

    def monotonic(self) -> float:
        return self.elapsed


class CrashingJournal(Journal):
    """A journal after whose write the process may die."""

    def __init__(self, directory: Path, dies: Callable[[Entry], bool], full: Callable[[], bool]) -> None:
        super().__init__(directory)
        self._dies = dies
        self._full = full

    def save(self, entry: Entry) -> None:
        if self._full():
            raise OSError(errno.ENOSPC, "No space left on device")
        super().save(entry)
        if self._dies(entry):
            raise Killed


class CrashingPerformer(Performer):
    """A performer after whose work the process may die, before anybody hears the result."""

    def __init__(self, parts: Parts, bounds: Bounds, dies: Callable[[Work, Result], bool]) -> None:
        super().__init__(parts, bounds)
        self._dies = dies

    def do(self, model: str, work: Work, progress: Progress, cancellation: Cancellation) -> Result:
        result = super().do(model, work, progress, cancellation)
        if self._dies(work, result):
            raise Killed
        return result


class ListWorker:
    """Jobs wait until the harness does them."""

    def __init__(self) -> None:
        self.jobs: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        self.jobs.append(job)


class PumpedInbox:
    """Answers for a device; when none waits, the chunk worker works, and then time passes."""

    def __init__(self, fleet: SimulatedFleet) -> None:
        self._fleet = fleet
        self._answers: deque[Answer] = deque()

    def put(self, answer: Answer) -> None:
        self._answers.append(answer)

    def get(self, timeout_s: float) -> Answer | None:
        if not self._answers and timeout_s > 0:
            self._fleet.chunks.serve_waiting()
        if not self._answers:
            self._fleet.clock.elapsed += timeout_s
            return None
        self._fleet.clock.elapsed += 0.001
        return self._answers.popleft()


def gate_in_process(request: GateRequest) -> GateVerdict:
    """The gate's own measurements and judgement, without its child process."""
    tried = trial.run(request.candidate.path, request.candidate.session_options, request.golden)
    baseline = None
    if request.baseline is not None:
        baseline = trial.run(request.baseline.path, request.baseline.session_options, request.golden)
    return judge(request, tried, baseline)


class SimulatedFleet:
    """Broker, signed metadata, blobs, one chunk worker and the director."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = SimulatedClock()
        self.broker = SimulatedBroker()
        self.signers = Signers()
        self.metadata = SignedMetadata(self.signers, self.clock.now())
        self.blobs = DirectoryBlobStore(directory / "central")
        self.central = SimulatedTransport(self.broker, "central")
        self.chunks = ChunkWorker(
            "worker-1",
            self.blobs,
            self.metadata.read,
            self.central,
            self.clock,
            WorkerLimits(bytes_per_s=1e12, burst_bytes=1e12),
        )
        self.chunks.attach()
        self.central.start()
        self._sequence = 0

    def publish(self, release: Release) -> None:
        """Store the blobs of a release and sign it."""
        self.blobs.put(release.digest, [release.content])
        for digest, path in release.files.items():
            self.blobs.put(digest, [path.read_bytes()])
        self.metadata.add(release.target, self.clock.now())

    def assign(self, device: str, *assignments: Assignment, issued: float | None = None) -> None:
        """The director's next word to a device."""
        self._sequence += 1
        now = self.clock.now() if issued is None else issued
        state = registry_director.desired_state(device, assignments, sequence=self._sequence, now=now)
        self.send_desired(state)

    def send_desired(self, state: DesiredState) -> None:
        sealed = registry_director.seal(state, self.signers.director)
        self.central.publish(topics.device(state.device, "desired"), sealed, qos=1, retain=True)

    def reported(self, device: str) -> ReportedState:
        """What the device said last."""
        return decode_reported(self.broker.retained[topics.device(device, "reported")])

    def device(self, name: str = "kitchen") -> SimulatedDevice:
        return SimulatedDevice(self, name)


@dataclass
class SimulatedDevice:
    """One device: a state directory, and a process that lives on it between `start` and `stop` or a kill."""

    fleet: SimulatedFleet
    name: str
    rules: Rules = RULES
    gate: Gate = gate_in_process
    effort: Effort | None = None
    """With one, models are prepared and tuned, by real child processes."""
    reserve_bytes: int = 0
    disk_is_full: bool = False
    """The journal cannot be written."""
    dies_after_save: Callable[[Entry], bool] = lambda _entry: False
    dies_after_work: Callable[[Work, Result], bool] = lambda _work, _result: False
    deaths: int = 0
    boots: int = 0
    history: list[str] = field(default_factory=list)
    """Every phase that was journalled, in order, without repeats."""
    agent: Agent = field(init=False)
    host: ModelHost = field(init=False)
    transport: SimulatedTransport = field(init=False)

    @property
    def directory(self) -> Path:
        return self.fleet.directory / self.name

    def start(self) -> None:
        """Begin the process, and connect."""
        fleet, boot = self.fleet, digest_of(f"{self.name} {self.boots}".encode())[7:39]
        self.boots += 1
        self.directory.mkdir(exist_ok=True)
        self.transport = SimulatedTransport(fleet.broker, self.name, will=will_of(self.name, boot))
        self.host = ModelHost(fleet.clock)
        link = ChunkLink(self.transport, self.name, clock=fleet.clock, inbox=PumpedInbox(fleet), first_request=7, stall_s=20.0)
        self.store = ContentStore(self.directory, reserve_bytes=self.reserve_bytes)
        self.slots = Slots(self.directory / "models")
        director = Director(self.directory / "trust", self.name, fleet.signers.director.public_key, clock=fleet.clock)
        releases = Releases(self.directory / "trust" / "metadata", fleet.metadata.root, MetadataFetcher(link), director)
        workshop = None if self.effort is None else Workshop(self.directory, self.store, self.effort)
        fetcher = BlobFetcher(link, self.store)
        parts = Parts(self.store, self.slots, fetcher, releases, director, self.host, self.gate, lambda: 0.5, workshop)
        self.worker = ListWorker()
        self.outbox = Outbox(self.directory / "outbox.sqlite", boot=bytes.fromhex(boot), cap_bytes=1 << 20)
        self.journal = CrashingJournal(self.directory, self._note, lambda: self.disk_is_full)
        around = Surroundings(
            transport=self.transport,
            transfers=self.worker,
            worker=self.worker,
            performer=CrashingPerformer(parts, Bounds(), self._dies_after),
            host=self.host,
            journal=self.journal,
            slots=self.slots,
            outbox=self.outbox,
            reporter=Reporter(self.transport, self.name, boot),
            director=director,
            clock=fleet.clock,
            chance=lambda: 0.5,
        )
        rules = replace(self.rules, prepares=self.effort is not None)
        self.agent = Agent(self.name, around, rules=rules, telemetry_interval_s=30.0)
        self._alive(self.agent.begin)
        if not self._dead:
            self.transport.start()

    def stop(self) -> None:
        """End the process cleanly."""
        self.agent.end()
        self._close()

    def kill(self) -> None:
        """End the process as kill -9 does."""
        self.transport.cut()
        self._close()

    def run(self, seconds: float = 0.0) -> None:
        """Do all that is to do, and then let `seconds` pass, a quarter at a time. A killed process is started again."""
        until = self.fleet.clock.elapsed + seconds
        self._settle()
        while self.fleet.clock.elapsed < until:
            self.fleet.clock.elapsed = min(until, self.fleet.clock.elapsed + 0.25)
            self._settle()

    def acknowledge_all(self) -> None:
        """Be the backend that has everything."""
        boot = digest_of(f"{self.name} {self.boots - 1}".encode())[7:39]
        answer = Acknowledged(boot=boot, sequences=tuple(range(1000)))
        self.agent.handle(inputs.Acknowledgement(codec.encode(answer)))

    def state(self, model: str = "digits") -> ModelState:
        return self.agent.states[model]

    def runs(self, model: str = "digits") -> str | None:
        """The version that really answers, which must be the one that is reported."""
        answering = {each.model: each.version for each in self.host.identities()}
        return answering.get(model)

    _dead: bool = False

    def _settle(self) -> None:
        """Until nothing is left to do at this moment; jobs let time pass by themselves."""
        while True:
            if self._dead:
                self.deaths += 1
                assert self.deaths < MOST_DEATHS, f"{self.name} is in a crash loop: {self.history[-20:]}"
                self.kill()
                self._dead = False
                self.start()
            else:
                self._alive(self._turn)
                if not self._dead and not self.worker.jobs and self.agent.inputs.empty():
                    return

    def _turn(self) -> None:
        while not self.agent.inputs.empty():
            self.agent.handle(self.agent.inputs.get_nowait())
        self.agent.tick()
        if self.worker.jobs:
            self.worker.jobs.popleft()()

    def _alive(self, life: Callable[[], None]) -> None:
        try:
            life()
        except Killed:
            self._dead = True

    def _note(self, entry: Entry) -> bool:
        for each in entry.models:
            if not self.history or self.history[-1] != each.phase:
                self.history.append(each.phase)
        return self.dies_after_save(entry)

    def _dies_after(self, work: Work, result: Result) -> bool:
        return self.dies_after_work(work, result)

    def _close(self) -> None:
        self.outbox.close()
        for each in self.host.identities():
            self.host.deactivate(each.model)
