"""Carries out the machine's slow effects on the worker thread: fetch, verify, stage, gate, activate, roll back, self-check.

Each is idempotent: a killed one is simply done again. Each ends in one `Result`; nothing raised by the disk, the network, a
model or a publisher leaves `do`. Whether to do something is never decided here.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from device_agent.content import ContentStore
from device_agent.errors import AgentError, ContentDamaged, ReleaseRefused, TryLater, Untrusted
from device_agent.events import (
    Activate,
    Activated,
    Failed,
    Fetch,
    Fetched,
    GatePassed,
    GateRefused,
    Prepare,
    Prepared,
    Result,
    RollBack,
    RolledBack,
    RunGate,
    SelfCheck,
    SelfCheckPassed,
    Stage,
    Staged,
    Verified,
    Verify,
    Work,
)
from device_agent.fetch import BlobFetcher
from device_agent.link import Cancellation
from device_agent.model_state import ModelState
from device_agent.slots import Slots
from device_agent.trust import Director, Releases
from device_agent.variants import choose, usable
from device_agent.workshop import Workshop
from fleet_io.clock import Chance
from fleet_protocol import limits
from fleet_protocol.errors import ProtocolError
from fleet_protocol.manifest import Manifest, Variant, decode_manifest
from fleet_protocol.states import Assignment, Running
from runtime import Model, ModelHost, ModelIdentity
from runtime import trial as runtime_trial
from runtime.errors import GateUnavailable, InvalidGolden, RuntimeFailure
from runtime.gate import GateRequest, GateVerdict, ModelFile, judge
from runtime.golden import read as read_golden
from runtime.sources import Contender, Source

log = logging.getLogger(__name__)

ENGINES: Final = {"onnx": ("onnxruntime",), "tflite": ("ai_edge_litert", "tflite_runtime")}
"""The packages that open each format; one is enough."""

Progress = Callable[[float], None]
"""Is told the share of bytes at hand, 0 to 1."""

Gate = Callable[[GateRequest], GateVerdict]
"""`runtime.gate.examine` with this device's limits."""


def formats_at_hand() -> frozenset[str]:
    """The formats whose engine is installed here."""
    return frozenset(each for each, packages in ENGINES.items() if any(map(importlib.util.find_spec, packages)))


@dataclass(frozen=True, slots=True)
class Parts:
    """What effects are carried out with."""

    store: ContentStore
    slots: Slots
    fetcher: BlobFetcher
    releases: Releases
    director: Director
    host: ModelHost
    examine: Gate
    chance: Chance
    workshop: Workshop | None = None
    """Prepares models; None: they are loaded as they are."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of one piece of work."""

    threads: int | None = None
    formats: frozenset[str] = frozenset({"onnx"})


class Performer:
    """Does one piece of work at a time, on whichever thread calls."""

    def __init__(self, parts: Parts, bounds: Bounds) -> None:
        self._parts = parts
        self._bounds = bounds
        self._live: dict[str, Model] = {}

    def do(self, model: str, work: Work, progress: Progress, cancellation: Cancellation) -> Result:
        """Carry out one effect. Never raises."""
        try:
            return self._dispatch(model, work, progress, cancellation)
        except (ReleaseRefused, ProtocolError, InvalidGolden) as error:
            return Failed(work.work, str(error), lasting=True)
        except (TryLater, GateUnavailable) as error:
            return Failed(work.work, str(error), jitter=self._parts.chance())
        except RuntimeFailure as error:
            return Failed(work.work, str(error), lasting=True)
        except OSError as error:
            return Failed(work.work, f"this device's disk: {error}", jitter=self._parts.chance())
        except Exception as error:  # a fault of ours must not end the agent
            log.exception("%s of %s failed", type(work).__name__, model)
            return Failed(work.work, f"internal error: {error!r}", jitter=self._parts.chance())

    def load(self, model: str, running: Running, *, warily: bool = False, plain: bool = False) -> str:
        """Let `running` answer requests; `warily`: after a child process has tried it; `plain`: as it is, not as prepared.

        Returns why its prepared form could not be used, where it could not.
        Raises `AgentError`, `RuntimeFailure`, `ProtocolError` or `OSError`.
        """
        if warily:
            self._try_first(running)
        source, opened, fault = self._open(model, running, plain=plain)
        self._parts.host.activate(source.identity, opened, source.labels)
        self._live[model] = opened
        return fault

    def stop(self, model: str) -> None:
        """Take the model out of service."""
        self._parts.host.deactivate(model)
        self._live.pop(model, None)
        self._parts.slots.clear(model)

    def settle_slots(self, state: ModelState) -> None:
        """Make the slots of a model that is idle say what its state says."""
        for slot, content in (("active", state.running), ("previous", state.previous), ("staged", None)):
            if self._parts.slots.read(state.model, slot) != content:  # type: ignore[arg-type]  # the three slots
                self._parts.slots.write(state.model, slot, content)  # type: ignore[arg-type]  # the three slots

    def delete_unused(self, states: Collection[ModelState]) -> int:
        """Empty staged slots that no candidate fills, and remove files that nothing names; return the bytes that this freed."""
        for state in states:
            if state.candidate is None and self._parts.slots.read(state.model, "staged") is not None:
                self._parts.slots.write(state.model, "staged", None)
        return self._parts.store.keep_only(frozenset(self._named(states)))

    def tidy_workshop(self) -> None:
        """Remove the prepared forms of what no slot names. On the worker, where nothing is prepared meanwhile."""
        if self._parts.workshop is None:
            return
        keep = []
        for model, running in self._parts.slots.named_by_model():
            with contextlib.suppress(AgentError, ProtocolError):  # it cannot be read any more: nor can its prepared form
                keep.append((self._source(model, running), running.file))
        self._parts.workshop.keep_only(keep)

    def _dispatch(self, model: str, work: Work, progress: Progress, cancellation: Cancellation) -> Result:
        cancellation.check()
        match work:
            case Fetch():
                result = self._fetch(work, progress, cancellation)
            case Verify():
                result = self._verify(work, cancellation)
            case Stage():
                self._parts.slots.write(model, "staged", work.candidate)
                result = Staged(work.work)
            case RunGate():
                result = self._gate(work)
            case Prepare():
                result = self._prepare(model, work)
            case Activate():
                result = self._activate(model, work)
            case RollBack():
                result = self._roll_back(model, work, cancellation)
            case _:
                assert isinstance(work, SelfCheck)
                result = self._self_check(model, work)
        return result

    def _fetch(self, work: Fetch, progress: Progress, cancellation: Cancellation) -> Result:
        """Signatures first, then the manifest, then only the files that this device needs."""
        manifest = self._trusted_manifest(work.target, cancellation)
        variant = choose(manifest, self._bounds.formats, work.passed_over)
        files = (variant.file, manifest.golden.file)
        total, before = max(1, sum(each.size for each in files)), 0
        for each in files:
            self._parts.fetcher.fetch(each, _part_of(progress, before, total), cancellation)
            before += each.size
        return Fetched(work.work, _running(manifest, work.target.manifest, variant))

    def _trusted_manifest(self, target: Assignment, cancellation: Cancellation) -> Manifest:
        if self._parts.director.expired():
            raise TryLater("the fleet's last word to this device has expired; nothing new is installed until it speaks again")
        size = self._parts.releases.confirm(target, cancellation)
        manifest = decode_manifest(self._parts.fetcher.fetch_manifest(target.manifest, cancellation, size=size))
        if (manifest.model, manifest.version) != (target.model, target.version):
            raise Untrusted(f"the manifest of {target.model} {target.version} is that of {manifest.model} {manifest.version}")
        return manifest

    def _verify(self, work: Verify, cancellation: Cancellation) -> Result:
        manifest = self._trusted_manifest(work.target, cancellation)
        variant = _variant(manifest, work.candidate)
        for each in (variant.file, manifest.golden.file):
            self._parts.store.check(each.digest)
        return Verified(work.work)

    def _gate(self, work: RunGate) -> Result:
        manifest = self._manifest(work.candidate)
        variant = _variant(manifest, work.candidate)
        verdict = self._parts.examine(self._question(manifest, variant, self._baseline(work.baseline)))
        if verdict.passed:
            return GatePassed(work.work, verdict.reason)
        others = usable(manifest, self._bounds.formats, (*work.passed_over, variant.name))
        return GateRefused(work.work, verdict.reason, another=bool(others))

    def _prepare(self, model: str, work: Prepare) -> Result:
        """Whatever goes wrong here is no fault of the candidate, which the gate has let through."""
        workshop = self._parts.workshop
        if workshop is None:
            return Prepared(work.work)
        contender = self._contender(model, work.candidate)
        return Prepared(work.work, workshop.prepare(contender, work.candidate.file, threads=self._bounds.threads))

    def _activate(self, model: str, work: Activate) -> Result:
        """Load before a slot changes: a candidate that cannot be opened must not touch what runs."""
        source, opened, fault = self._open(model, work.candidate, plain=work.plain)
        slots = self._parts.slots
        try:
            slots.write(model, "previous", work.previous)
            slots.write(model, "active", work.candidate)
            slots.write(model, "staged", None)
        except OSError:
            opened.close()
            raise
        self._parts.host.activate(source.identity, opened, source.labels)
        self._live[model] = opened
        return Activated(work.work, fault)

    def _roll_back(self, model: str, work: RollBack, cancellation: Cancellation) -> Result:
        if work.fallback is None:
            self.stop(model)
            return RolledBack(work.work)
        if not self._serves(model, work.fallback):
            self._mend(work.fallback, cancellation)
            self.load(model, work.fallback, plain=work.plain)
        slots = self._parts.slots
        slots.write(model, "active", work.fallback)
        slots.write(model, "previous", work.previous)
        slots.write(model, "staged", None)
        return RolledBack(work.work)

    def _self_check(self, model: str, work: SelfCheck) -> Result:
        manifest = self._manifest(work.running)
        variant = _variant(manifest, work.running)
        question = self._question(manifest, variant, None)
        live = self._live.get(model)
        if live is None:
            raise ReleaseRefused(f"{model} does not run any more")
        wanted = read_golden(question.golden)
        answers, seconds = runtime_trial.ask(live, wanted)
        verdict = judge(question, runtime_trial.compare(live, wanted, answers, seconds), None)
        if verdict.passed:
            return SelfCheckPassed(work.work)
        return Failed(work.work, f"the self-check after activation failed: {verdict.reason}", lasting=True)

    def _question(self, manifest: Manifest, variant: Variant, baseline: ModelFile | None) -> GateRequest:
        return GateRequest(
            candidate=ModelFile(self._parts.store.path(variant.file.digest), variant.session_options),
            golden=self._parts.store.path(manifest.golden.file.digest),
            tolerance=variant.tolerance,
            min_accuracy=manifest.golden.min_accuracy,
            max_regression=manifest.golden.max_regression,
            baseline=baseline,
        )

    def _baseline(self, running: Running | None) -> ModelFile | None:
        """What runs now, for comparison; one that cannot be read is none."""
        if running is None:
            return None
        try:
            variant = _variant(self._manifest(running), running)
        except (AgentError, ProtocolError):
            return None
        return ModelFile(self._parts.store.path(variant.file.digest), variant.session_options)

    def _open(self, model: str, running: Running, *, plain: bool) -> tuple[Source, Model, str]:
        """The digest is checked before the engine sees a byte. A fault of the prepared form comes last; empty without one."""
        source, workshop = self._source(model, running), self._parts.workshop
        self._parts.store.check(running.file)
        if workshop is None:
            return source, source.load(threads=self._bounds.threads), ""
        if plain:
            workshop.forget(source, running.file)
        return source, *workshop.load(source, running.file, threads=self._bounds.threads)

    def _source(self, model: str, running: Running) -> Source:
        """The file of what shall run, and how its publisher wants it opened. Raises `AgentError` or `ProtocolError`."""
        return self._contender(model, running).source

    def _contender(self, model: str, running: Running) -> Contender:
        manifest = self._manifest(running)
        variant = _variant(manifest, running)
        identity = ModelIdentity(model=model, version=running.version, manifest=running.manifest, variant=running.variant)
        path = self._parts.store.path(running.file)
        source = Source(path, identity, variant.session_options, manifest.labels, manifest.processing or None)
        golden = manifest.golden
        return Contender(variant.name, source, variant.tolerance, self._parts.store.path(golden.file.digest), golden.samples)

    def _try_first(self, running: Running) -> None:
        """This process has died again and again: it does not load what may be the reason."""
        manifest = self._manifest(running)
        verdict = self._parts.examine(self._question(manifest, _variant(manifest, running), None))
        if not verdict.passed:
            raise ReleaseRefused(verdict.reason)

    def _mend(self, running: Running, cancellation: Cancellation) -> None:
        """Fetch what is damaged of a release that ran here before: its digests are known, and need no new trust."""
        try:
            manifest = self._manifest(running)
        except ContentDamaged:
            manifest = decode_manifest(self._parts.fetcher.fetch_manifest(running.manifest, cancellation))
        file = _variant(manifest, running).file
        try:
            self._parts.store.check(file.digest)
        except ContentDamaged:
            self._parts.fetcher.fetch(file, lambda _bytes: None, cancellation)

    def _serves(self, model: str, running: Running) -> bool:
        wanted = (model, running.manifest, running.variant)
        return any((each.model, each.manifest, each.variant) == wanted for each in self._parts.host.identities())

    def _manifest(self, running: Running) -> Manifest:
        return decode_manifest(self._parts.store.read(running.manifest, limit=limits.MANIFEST_BYTES))

    def _named(self, states: Iterable[ModelState]) -> Iterator[str]:
        for running in self._parts.slots.named():
            yield from self._files_of(running.manifest, {running.variant})
        for state in states:
            for each in (state.running, state.previous, state.fallback, state.candidate):
                if each is not None:
                    yield from self._files_of(each.manifest, {each.variant})
            if state.target is not None:
                yield from self._files_of(state.target.manifest, None)

    def _files_of(self, digest: str, variants: Collection[str] | None) -> Iterator[str]:
        """The manifest, its golden file, and the files of the named variants (None: of all)."""
        yield digest
        if not self._parts.store.has(digest):
            return
        try:
            manifest = decode_manifest(self._parts.store.read(digest, limit=limits.MANIFEST_BYTES))
        except (AgentError, ProtocolError):
            return
        yield manifest.golden.file.digest
        for each in manifest.variants:
            if variants is None or each.name in variants:
                yield each.file.digest


def _running(manifest: Manifest, digest: str, variant: Variant) -> Running:
    return Running(version=manifest.version, manifest=digest, variant=variant.name, file=variant.file.digest)


def _variant(manifest: Manifest, running: Running) -> Variant:
    """Raises `Untrusted` when the manifest has no such variant."""
    variant = manifest.variant(running.variant)
    if variant is None or variant.file.digest != running.file:
        raise Untrusted(f"{manifest.model} {manifest.version} has no variant {running.variant} with the file {running.file}")
    return variant


def _part_of(progress: Progress, before: int, total: int) -> Callable[[int], None]:
    return lambda at_hand: progress(min(1.0, (before + at_hand) / total))
