"""The registry's voice to devices: hears what they report, lets the planner decide, and tells each what it should run.

One thread owns all of it; MQTT handlers only fill its queue. A decision is in the database before it is sent. The broker is
only a hint (DESIGN.md §3): after every connect everything is sent again, and a device that comes online is told at once.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Mapping, Sequence
from typing import Final

from securesystemslib.signer import Signer

from fleet_io.clock import Clock
from fleet_io.transport import Message, Transport
from fleet_protocol import topics
from fleet_protocol.errors import LimitExceeded, ProtocolError
from fleet_protocol.states import Assignment, ReportedState, decode_reported, decode_status
from model_registry import director
from model_registry import rollout as planner
from model_registry.catalogue import Catalogue, Records
from model_registry.errors import StoreFailed
from model_registry.fleet_records import Desired
from model_registry.publication import Publication
from model_registry.rollout_control import keep, views
from model_registry.trust import TIMESTAMP_FILE

log = logging.getLogger(__name__)

WAITING: Final = 10_000
"""Messages that may wait; beyond that they are dropped, and the device's next report says the same again."""

BATCH: Final = 500
IDLE_S: Final = 1.0
SEND_AGAIN_S: Final = 0.2
PERIODIC_S: Final = 60.0


class Coordinator:
    """Runs from `start` to `stop`. `attach` comes first and names the transport."""

    def __init__(self, catalogue: Catalogue, publication: Publication, signer: Signer, clock: Clock) -> None:
        self._catalogue = catalogue
        self._publication = publication
        self._signer = signer
        self._clock = clock
        self._inbox: queue.Queue[Message | None] = queue.Queue(WAITING)
        self._stopping = threading.Event()
        self._reconnected = threading.Event()
        self._changed = threading.Event()
        self._news = threading.Event()
        self._said = ""
        """Why the database could not be used in the last round, as the log has it."""
        self._transport: Transport | None = None
        self._taken: list[Message] = []
        self._unsent: dict[str, None] = {}
        self._periodic_at: float | None = None
        self._thread: threading.Thread | None = None

    def attach(self, transport: Transport) -> None:
        """Listen to what devices report."""
        self._transport = transport
        transport.subscribe(topics.every_device("reported"), self._receive, qos=1)
        transport.subscribe(topics.every_device("status"), self._receive, qos=1)
        transport.on_connected(self._on_connected)

    def start(self) -> None:
        """Begin to work, in a thread of its own."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="coordinator", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what was decided is stored, what was not sent will be."""
        self._stopping.set()
        self.wake()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def wake(self) -> None:
        """Look at the rollouts now: something changed in the database."""
        self._changed.set()
        self._nudge()

    def announce_metadata(self) -> None:
        """Tell the fleet that there is a new timestamp."""
        self._news.set()
        self._nudge()

    def work(self, wait_s: float) -> None:
        """One round: wait up to `wait_s` for news, take them in, decide, send. The thread does nothing else."""
        self._take(wait_s)
        touched: set[str] | None = self._take_in()
        if self._changed.is_set():
            self._changed.clear()
            touched = None
        self._decide(touched)
        if self._reconnected.is_set():
            self._reconnected.clear()
            self._send_everything()
        if self._is_time():
            self._periodic()
        self._send()

    def _run(self) -> None:
        self._changed.set()
        while not self._stopping.is_set():
            try:
                self.work(SEND_AGAIN_S if self._unsent else IDLE_S)
                self._said = ""
            except StoreFailed as error:
                if str(error) != self._said:
                    log.error("%s Until it can be used, devices are told nothing new.", error)  # noqa: TRY400  # the disk's fault
                self._said = str(error)
                self._rest()
            except Exception:  # one bad round must not silence the fleet; the next one sees the same database
                log.exception("a round of the coordinator failed; the next one tries again")
                self._rest()

    def _rest(self) -> None:
        """After a round that failed: the next one looks at everything."""
        self._changed.set()
        self._reconnected.set()
        self._stopping.wait(IDLE_S)

    def _receive(self, message: Message) -> None:
        try:
            self._inbox.put_nowait(message)
        except queue.Full:
            log.warning("dropped a message of %s: %d wait already", message.topic, WAITING)

    def _on_connected(self) -> None:
        self._reconnected.set()
        self._nudge()

    def _nudge(self) -> None:
        """End the wait for messages; when the queue is full, there is no wait."""
        with contextlib.suppress(queue.Full):
            self._inbox.put_nowait(None)

    def _take(self, wait_s: float) -> None:
        """Add what has come to what is not stored yet, up to a batch."""
        try:
            taken = self._inbox.get(timeout=wait_s) if wait_s > 0 else self._inbox.get_nowait()
            while True:
                if taken is not None:
                    self._taken.append(taken)
                if len(self._taken) >= BATCH:
                    break
                taken = self._inbox.get_nowait()
        except queue.Empty:
            pass

    def _take_in(self) -> set[str]:
        """Store what devices said; gives the models that it is about. What cannot be stored now is tried again."""
        touched: set[str] = set()
        if self._taken:
            with self._catalogue.changing() as records:
                for message in self._taken:
                    touched |= self._take_in_one(records, message)
            self._taken.clear()
        return touched

    def _take_in_one(self, records: Records, message: Message) -> set[str]:
        try:
            device, channel = topics.parse_device(message.topic)
            if channel == "reported":
                return self._take_report(records, device, message.payload)
            return self._take_status(records, device, message.payload)
        except ProtocolError as error:
            log.warning("dropped a message of %s: %s", message.topic, error)
            return set()

    def _take_report(self, records: Records, device: str, payload: bytes) -> set[str]:
        report = decode_reported(payload)
        if report.device != device:
            log.warning("dropped a report on the topic of %s that speaks for %s", device, report.device)
            return set()
        known = records.fleet.device(device)
        if known is None:
            log.warning("dropped a report of %s, which is not enrolled here", device)
            return set()
        if known.reported is not None and not _is_newer(report, known.reported):
            return set()
        records.fleet.report(device, payload, self._clock.now())
        if report.desired > records.fleet.sequences([device]).get(device, 0):
            log.warning("%s follows a later word than this database knows, as after a restored copy; it is told anew", device)
            self._tell(records, [device], after={device: report.desired})
        before = () if known.reported is None else known.reported.models
        return {each.model for each in (*report.models, *before)}

    def _take_status(self, records: Records, device: str, payload: bytes) -> set[str]:
        status = decode_status(payload)
        known = records.fleet.device(device)
        if known is None or (not status.online and known.session and known.session != status.session):
            return set()  # a stranger, or the will of a session that a newer one has replaced
        records.fleet.presence(device, online=status.online, session=status.session, now=self._clock.now())
        if status.online:
            self._unsent[device] = None
        return set(records.fleet.assignments(device))

    def _decide(self, touched: set[str] | None) -> None:
        """Plan the running rollouts of the touched models (None: all), and sign new words where they are due.

        With None, devices that have no release of a model yet are given the current one, and every device is looked at.
        """
        if touched is not None and not touched:
            return
        with self._catalogue.changing() as records:
            changed: set[str] = set()
            for record in records.rollouts(state="running"):
                if touched is None or record.rollout.model in touched:
                    changed |= self._plan(records, record.rollout)
            if touched is None:
                self._give_baselines(records)
                changed |= records.fleet.out_of_date()
            self._tell(records, sorted(changed))

    def _plan(self, records: Records, rollout: planner.Rollout) -> set[str]:
        decided = planner.plan(rollout, views(records, rollout.model))
        if decided.rollout != rollout or decided.assign:
            keep(records, decided, self._clock.now())
        if decided.rollout.state != rollout.state:
            ended = f"{decided.rollout.state}: {decided.rollout.reason}"
            records.note(self._clock.now(), "planner", "end_rollout", f"rollout {rollout.id}", ended)
            log.info("rollout %d of %s %s %s", rollout.id, rollout.model, rollout.release.version, ended)
        return set(decided.assign)

    @staticmethod
    def _give_baselines(records: Records) -> None:
        """A device that joined after a rollout had succeeded runs its release too."""
        succeeded = [record.rollout for record in records.rollouts(state="succeeded")]
        names = [device.name for device in records.fleet.devices()]
        for model in {each.model for each in succeeded}:
            of_model = [each for each in succeeded if each.model == model]
            told = records.fleet.assigned(model)
            for source in of_model:
                newcomers = [name for name in names if name not in told and planner.baseline(of_model, name) == source]
                records.fleet.assign(model, dict.fromkeys(newcomers, source.release), source.id)

    def _tell(self, records: Records, devices: Sequence[str], *, after: Mapping[str, int] | None = None) -> None:
        """Sign new words to devices and keep them; they are sent when the transaction is over.

        A word follows the last one that was kept, or the sequence that `after` has for its device.
        """
        told = records.fleet.all_assignments(devices)
        sequences = records.fleet.sequences(devices) | dict(after or {})
        words = [self._word(device, told.get(device, {}), sequences.get(device, 0) + 1) for device in devices]
        kept = [word for word in words if word is not None]
        records.fleet.keep_desired(kept)
        self._unsent |= dict.fromkeys(word.device for word in kept)

    def _word(self, device: str, told: Mapping[str, tuple[planner.Release, int]], sequence: int) -> Desired | None:
        """A signed word, or None when more is assigned than a device takes; then the last word stands."""
        assignments = tuple(
            Assignment(model=model, version=release.version, manifest=release.manifest, attempt=release.attempt)
            for model, (release, _) in sorted(told.items())
        )
        try:
            state = director.desired_state(device, assignments, sequence=sequence, now=self._clock.now())
            return Desired(device, sequence, state.expires, director.seal(state, self._signer))
        except LimitExceeded as error:
            log.error("%s keeps what it was told last: %s", device, error)  # noqa: TRY400  # a decision, not a fault of ours
            return None

    def _is_time(self) -> bool:
        now = self._clock.monotonic()
        if self._periodic_at is not None and now < self._periodic_at:
            return False
        self._periodic_at = now + PERIODIC_S
        return True

    def _periodic(self) -> None:
        """Renew what would expire: the timestamp of the metadata, and words to devices."""
        if self._publication.renew():
            self._news.set()
        with self._catalogue.changing() as records:
            due = director.renewal_due(self._clock.now())
            self._tell(records, records.fleet.desired_devices(expiring_before=due))

    def _send_everything(self) -> None:
        with self._catalogue.reading() as records:
            self._unsent |= dict.fromkeys(records.fleet.desired_devices())
        self._news.set()

    def _send(self) -> None:
        """Send what is due, until the transport takes no more."""
        if self._transport is None:
            return
        if self._news.is_set():
            timestamp = self._publication.metadata(TIMESTAMP_FILE)
            if not self._transport.publish(topics.META_TIMESTAMP, timestamp, qos=1, retain=True):
                return
            self._news.clear()
        with self._catalogue.reading() as records:
            for device in list(self._unsent):
                word = records.fleet.desired(device)
                if word is not None and not self._publish(device, word.envelope):
                    return
                del self._unsent[device]

    def _publish(self, device: str, envelope: bytes) -> bool:
        assert self._transport is not None
        return self._transport.publish(topics.device(device, "desired"), envelope, qos=1, retain=True)


def _is_newer(report: ReportedState, known: ReportedState) -> bool:
    """Within a boot the sequence decides; another boot is news (a retained report comes again after each connect)."""
    return report.boot != known.boot or report.sequence > known.sequence
