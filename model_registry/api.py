"""The HTTP API of the registry: what each route takes and gives. Limits, tokens and statuses are `http_edge`'s.

Three routes need no token: the authority's certificate, which is no secret; enrolment, which brings a claim instead; and the
renewal of a device's certificate, which proves to have the device's key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from securesystemslib.signer import Key
from starlette.routing import BaseRoute

from fleet_protocol import codec, limits
from fleet_protocol.digests import Digest
from fleet_protocol.names import version_key
from fleet_protocol.states import ModelReport
from model_registry.authority import REQUEST_BYTES, Authority
from model_registry.blobs import BlobStore
from model_registry.catalogue import Catalogue, PublishedRelease
from model_registry.coordinator import Coordinator
from model_registry.enrolment import Enrolment
from model_registry.errors import BlobMissing, InvalidRequest, NotFound
from model_registry.fleet_records import Device
from model_registry.http_edge import SMALL_BODY, Call, Edge, Reply
from model_registry.publication import Publication
from model_registry.rollout import Release
from model_registry.rollout_control import RolloutControl, RolloutRequest

OPERATOR: Final = "operator"
RELEASE_BODY: Final = 4 * limits.METADATA_BYTES
"""Two metadata files as base64, with room."""

AUDIT_ENTRIES: Final = 200


class EnrolmentBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a device sends to enrol: its name, the claim token or its secret, a PKCS#10 request as PEM."""

    device: str
    claim: Annotated[str, msgspec.Meta(max_length=500)]
    csr: Annotated[str, msgspec.Meta(max_length=REQUEST_BYTES)]


class RenewalBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a device sends for its next certificate: its name, and a PKCS#10 request as PEM by the key that it has."""

    device: str
    csr: Annotated[str, msgspec.Meta(max_length=REQUEST_BYTES)]


class ReleaseBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The manifest's digest and the signed metadata by file name (base64)."""

    manifest: Digest
    metadata: dict[str, bytes]


class ClaimBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A claim to make: for one device or any, for so many uses and seconds."""

    device: str | None = None
    uses: int = 1
    expires_s: float = 24 * 3600.0
    replace: bool = False


class RolloutBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A rollout to start; see `rollout_control.RolloutRequest`."""

    model: str
    version: str
    cohort: str = "all"
    steps: tuple[float, ...] = (1.0,)
    max_failures: int = 0


@dataclass(frozen=True, slots=True)
class Api:
    """The parts that the routes use. `tuf_root` is the newest root's text, `broker` where devices find the broker."""

    token: str
    authority: Authority
    tuf_root: str
    director_key: Key
    broker: tuple[str, int]
    catalogue: Catalogue
    blobs: BlobStore
    publication: Publication
    enrolment: Enrolment
    rollouts: RolloutControl
    coordinator: Coordinator

    def routes(self) -> list[BaseRoute]:
        """All routes."""
        edge = Edge(self.token)
        return [
            edge.route("GET", "/v1/authority", self._authority, public=True),
            edge.route("POST", "/v1/enrolments", self._enrol, public=True),
            edge.route("POST", "/v1/renewals", self._renew, public=True),
            edge.route("POST", "/v1/claims", self._create_claim),
            edge.route("GET", "/v1/metadata/{file}", self._metadata),
            edge.route("GET", "/v1/blobs/{digest}", self._has_blob),  # answers HEAD; Starlette adds it to GET
            edge.upload("/v1/blobs/{digest}", self._put_blob),
            edge.route("POST", "/v1/releases", self._publish, limit=RELEASE_BODY),
            edge.route("GET", "/v1/models", self._models),
            edge.route("GET", "/v1/models/{name}", self._model),
            edge.route("GET", "/v1/devices", self._devices),
            edge.route("GET", "/v1/devices/{name}", self._device),
            edge.route("POST", "/v1/devices/{name}/retry", self._retry),
            edge.route("POST", "/v1/rollouts", self._start_rollout),
            edge.route("GET", "/v1/rollouts", self._rollouts),
            edge.route("GET", "/v1/rollouts/{id}", self._rollout),
            edge.route("POST", "/v1/rollouts/{id}/abort", self._abort_rollout),
            edge.route("GET", "/v1/audit", self._audit),
        ]

    def _authority(self, _call: Call) -> Reply:
        return Reply(self.authority.certificate, media_type="application/x-pem-file")

    def _enrol(self, call: Call) -> Reply:
        body = codec.decode(call.body, EnrolmentBody, limit=SMALL_BODY, what="enrolment")
        issued = self.enrolment.enrol(body.device, body.claim, body.csr.encode(), address=call.address)
        self.coordinator.wake()
        answer = {
            "device": body.device,
            "certificate": issued.certificate.decode(),
            "expires": issued.expires,
            "authority": self.authority.certificate.decode(),
            "tuf_root": self.tuf_root,
            "director_key": {"keyid": self.director_key.keyid, **self.director_key.to_dict()},
            "broker": {"host": self.broker[0], "port": self.broker[1]},
        }
        return Reply(answer, 201)

    def _renew(self, call: Call) -> Reply:
        body = codec.decode(call.body, RenewalBody, limit=SMALL_BODY, what="renewal")
        issued = self.enrolment.renew(body.device, body.csr.encode(), address=call.address)
        return Reply({"certificate": issued.certificate.decode(), "expires": issued.expires}, 201)

    def _create_claim(self, call: Call) -> Reply:
        body = codec.decode(call.body, ClaimBody, limit=SMALL_BODY, what="claim")
        made = self.enrolment.create_claim(
            device=body.device, uses=body.uses, lifetime_s=body.expires_s, replace=body.replace, actor=OPERATOR
        )
        return Reply(made, 201)

    def _metadata(self, call: Call) -> Reply:
        return Reply(self.publication.metadata(call.path["file"]))

    def _has_blob(self, call: Call) -> Reply:
        size = self.blobs.whole_size(call.path["digest"])  # a publisher that asks can send again what was damaged here
        if size is None:
            raise BlobMissing(f"There is no whole blob {call.path['digest']}.")
        return Reply({"digest": call.path["digest"], "size": size})

    def _put_blob(self, call: Call) -> Reply:
        digest = call.path["digest"]
        size = self.blobs.put(digest, call.pieces)
        return Reply({"digest": digest, "size": size}, 201)

    def _publish(self, call: Call) -> Reply:
        body = codec.decode(call.body, ReleaseBody, limit=RELEASE_BODY, what="release")
        release, created = self.publication.publish(body.manifest, body.metadata, actor=OPERATOR)
        if created:
            self.coordinator.announce_metadata()
        return Reply({**_release(release), "model": release.model, "created": created}, 201 if created else 200)

    def _models(self, _call: Call) -> Reply:
        with self.catalogue.reading() as records:
            releases = records.releases()
        names = sorted({release.model for release in releases})
        return Reply({"models": [_model(name, [each for each in releases if each.model == name]) for name in names]})

    def _model(self, call: Call) -> Reply:
        name = call.path["name"]
        with self.catalogue.reading() as records:
            releases = records.releases(name)
        if not releases:
            raise NotFound(f"There is no model {name!r}.", "See `edgeward models`.")
        return Reply(_model(name, releases))

    def _devices(self, _call: Call) -> Reply:
        with self.catalogue.reading() as records:
            ends = records.fleet.certificate_ends()
            told = records.fleet.all_assignments()
            devices = records.fleet.devices()
        return Reply({"devices": [_device(each, ends.get(each.name), told.get(each.name, {})) for each in devices]})

    def _device(self, call: Call) -> Reply:
        name = call.path["name"]
        with self.catalogue.reading() as records:
            device = records.fleet.device(name)
            if device is None:
                raise NotFound(f"There is no device {name!r}.", "See `edgeward devices`.")
            return Reply(_device(device, records.fleet.certificate_ends().get(name), records.fleet.assignments(name)))

    def _retry(self, call: Call) -> Reply:
        return Reply({"retried": self.rollouts.retry(call.path["name"], actor=OPERATOR)})

    def _start_rollout(self, call: Call) -> Reply:
        asked = codec.decode(call.body, RolloutBody, limit=SMALL_BODY, what="rollout")
        request = RolloutRequest(asked.model, asked.version, asked.cohort, asked.steps, asked.max_failures)
        return Reply(self.rollouts.start(request, actor=OPERATOR), 201)

    def _rollouts(self, _call: Call) -> Reply:
        return Reply({"rollouts": self.rollouts.list()})

    def _rollout(self, call: Call) -> Reply:
        return Reply(self.rollouts.show(_number(call.path["id"])))

    def _abort_rollout(self, call: Call) -> Reply:
        return Reply(self.rollouts.abort(_number(call.path["id"]), actor=OPERATOR))

    def _audit(self, _call: Call) -> Reply:
        with self.catalogue.reading() as records:
            return Reply({"entries": records.audit_log(AUDIT_ENTRIES)})


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise InvalidRequest(f"{text!r} is not the number of a rollout.", "See `edgeward rollout list`.")
    return int(text)


def _release(release: PublishedRelease) -> dict[str, object]:
    return {
        "version": release.version,
        "manifest": release.manifest,
        "published": release.published,
        "size": release.size,
        **msgspec.json.decode(release.summary),
    }


def _model(name: str, releases: list[PublishedRelease]) -> dict[str, object]:
    latest = max(releases, key=lambda release: version_key(release.version))
    return {"name": name, "latest": latest.version, "versions": [_release(each) for each in releases]}


def _device(device: Device, certificate_expires: float | None, told: dict[str, tuple[Release, int]]) -> dict[str, object]:
    reported = device.reported
    reports = {} if reported is None else {each.model: each for each in reported.models}
    models = sorted(reports.keys() | told.keys())
    return {
        "name": device.name,
        "online": device.online,
        "seen": device.seen,
        "enrolled": device.enrolled,
        "certificate_expires": certificate_expires,
        "agent": "" if reported is None else reported.agent,
        "hardware": {} if reported is None else reported.hardware,
        "serving": "" if reported is None else reported.serving,
        "boot": "" if reported is None else reported.boot,
        "sequence": 0 if reported is None else reported.sequence,
        "models": [_model_on_device(model, reports.get(model), told.get(model)) for model in models],
    }


def _model_on_device(model: str, report: ModelReport | None, told: tuple[Release, int] | None) -> dict[str, object]:
    """One model on one device; committed only when the device says that it runs what it should."""
    release, rollout = told if told is not None else (None, None)
    running = None if report is None else report.running
    idle = report is not None and report.phase == "idle"
    desired = None
    if release is not None:
        desired = {"version": release.version, "manifest": release.manifest, "attempt": release.attempt, "rollout": rollout}
    return {
        "model": model,
        "phase": "unknown" if report is None else report.phase,
        "healthy": 0 if report is None else report.healthy,
        "progress": 0.0 if report is None else report.progress,
        "committed": idle and release is not None and running is not None and running.manifest == release.manifest,
        "running": running,
        "desired": desired,
        "refused": () if report is None else report.refused,
    }
