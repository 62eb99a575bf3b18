"""How a device becomes one of the fleet: an operator's claim, the device's key, our certificate.

A claim token is `ew1.<SHA-256 of the authority's certificate>.<secret>`: the device checks the authority by it before it
believes anything, and we keep only the secret's hash. A device whose connection breaks before it has saved the answer may ask
again with the same key and claim; that is answered again and counted once. Before a certificate ends, its key gets the next
one: who proves to have it needs no claim.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from dataclasses import dataclass
from typing import Final

from fleet_io.clock import Clock
from fleet_protocol.names import check_name
from model_registry.authority import Authority, Issued, key_fingerprint, requested_key
from model_registry.catalogue import Catalogue
from model_registry.errors import ClaimRefused, DeviceNameTaken, InvalidRequest, RenewalRefused, TooManyAttempts
from model_registry.fleet_records import Claim, Device
from model_registry.pacing import TokenBucket
from model_registry.rollout import EVERYONE

TOKEN_PREFIX: Final = "ew1"  # noqa: S105  # a format's name, no secret
MOST_USES: Final = 1_000_000
LONGEST_CLAIM_S: Final = 365 * 24 * 3600
ATTEMPTS: Final = 10
ATTEMPTS_PER_S: Final = 0.2
ADDRESSES: Final = 10_000
"""Addresses whose failed attempts are counted at the same time."""

RENEWALS: Final = 5
RENEWALS_PER_S: Final = 1 / 3600
"""Of one device: it needs one in eight months, and a few more when answers are lost."""

RESERVED: Final = frozenset({EVERYONE, "central"})
"""Names that mean something else where device names stand."""


@dataclass(frozen=True, slots=True)
class NewClaim:
    """A claim as it is given to a person, once: `claim` is the token, `expires` epoch seconds."""

    claim: str
    device: str | None
    uses: int
    replace: bool
    expires: float


class Enrolment:
    """Makes claims and answers those who bring one."""

    def __init__(self, catalogue: Catalogue, authority: Authority, clock: Clock, *, certificate_days: int) -> None:
        self._catalogue = catalogue
        self._authority = authority
        self._clock = clock
        self._certificate_days = certificate_days
        self._lock = threading.Lock()
        self._failures: dict[str, TokenBucket] = {}
        self._renewals: dict[str, TokenBucket] = {}

    def create_claim(self, *, device: str | None, uses: int, lifetime_s: float, replace: bool, actor: str) -> NewClaim:
        """A new right to enrol. Raises `InvalidName` or `InvalidRequest`."""
        if device is not None:
            check_device_name(device)
        if not 1 <= uses <= MOST_USES or not 0 < lifetime_s <= LONGEST_CLAIM_S:
            raise InvalidRequest(f"A claim has 1 to {MOST_USES} uses and lasts up to {LONGEST_CLAIM_S // 86400} days.")
        secret = secrets.token_urlsafe(32)
        now = self._clock.now()
        with self._catalogue.changing() as records:
            number = records.fleet.add_claim(
                _hash(secret), device=device, uses=uses, replace=replace, now=now, expires=now + lifetime_s
            )
            records.note(now, actor, "create_claim", f"claim {number}", f"device={device or 'any'} uses={uses}")
        token = f"{TOKEN_PREFIX}.{self._authority.fingerprint}.{secret}"
        return NewClaim(token, device, uses, replace, now + lifetime_s)

    def enrol(self, device: str, claim: str, request: bytes, *, address: str) -> Issued:
        """A certificate for a device that brings a good claim (token or only its secret) and a certificate request.

        Raises `InvalidName`, `InvalidRequest`, `ClaimRefused`, `DeviceNameTaken`, or `TooManyAttempts` when `address` failed
        too often.
        """
        check_device_name(device)
        self._check_attempts(address)
        key = requested_key(request)
        now = self._clock.now()
        with self._catalogue.changing() as records:
            known = records.fleet.device(device)
            again = known is not None and known.public_key == key_fingerprint(key)
            try:
                found = _check_claim(records.fleet.claim(_hash(claim.rsplit(".", 1)[-1])), device, known, now, again=again)
            except ClaimRefused:
                self._count_failure(address)
                raise
            issued = self._authority.issue_device(device, key, now, days=self._certificate_days)
            if not (again and known is not None and known.claim == found.id):
                records.fleet.use_claim(found.id)
            records.fleet.enrol(device, issued.public_key, found.id, now)
            records.fleet.add_certificate(device, issued, now)
            records.note(now, f"claim {found.id}", "enrol", device, f"serial={issued.serial} from={address}")
        return issued

    def renew(self, device: str, request: bytes, *, address: str) -> Issued:
        """The next certificate for a device whose certificate request proves that it has the key with which it is enrolled.

        Nobody else could use it. Raises `InvalidName`, `InvalidRequest`, `RenewalRefused`, or `TooManyAttempts` when `address`
        failed, or the device renewed, too often.
        """
        check_device_name(device)
        self._check_attempts(address)
        key = requested_key(request)
        now = self._clock.now()
        with self._catalogue.changing() as records:
            known = records.fleet.device(device)
            if known is None or known.public_key != key_fingerprint(key):
                self._count_failure(address)
                raise RenewalRefused(
                    f"No device named {device!r} is enrolled with this key.",
                    "Remove its identity folder, and start its agent with a claim made with `edgeward claim create --replace`.",
                )
            self._count_renewal(device)
            issued = self._authority.issue_device(device, key, now, days=self._certificate_days)
            records.fleet.add_certificate(device, issued, now)
            records.note(now, device, "renew", device, f"serial={issued.serial} from={address}")
        return issued

    def _count_renewal(self, device: str) -> None:
        with self._lock:
            bucket = self._renewals.setdefault(device, TokenBucket(RENEWALS_PER_S, RENEWALS))
            if bucket.take(1, self._clock.monotonic()) > 0:
                raise TooManyAttempts(f"{device} has got {RENEWALS} certificates lately.", "Wait an hour.")

    def _check_attempts(self, address: str) -> None:
        with self._lock:
            bucket = self._failures.get(address)
            if bucket is not None and bucket.wait(1, self._clock.monotonic()) > 0:
                raise TooManyAttempts("Too many enrolments with a wrong claim came from this address.", "Wait a minute.")

    def _count_failure(self, address: str) -> None:
        with self._lock:
            if address not in self._failures and len(self._failures) >= ADDRESSES:
                self._failures.pop(next(iter(self._failures)))
            bucket = self._failures.setdefault(address, TokenBucket(ATTEMPTS_PER_S, ATTEMPTS))
            bucket.take(1, self._clock.monotonic())


def check_device_name(name: str) -> str:
    """Return `name`, or raise `InvalidName`, or `InvalidRequest` for a name that is kept for something else."""
    if check_name(name, "device name") in RESERVED:
        raise InvalidRequest(f"A device cannot be named {name!r}: the name is kept for something else.", "Choose another name.")
    return name


def _check_claim(claim: Claim | None, device: str, known: Device | None, now: float, *, again: bool) -> Claim:
    if claim is None:
        raise ClaimRefused("The claim token is not one of ours.", "Ask the operator for a new one: `edgeward claim create`.")
    if claim.expires <= now:
        raise ClaimRefused("The claim token has expired.", "Ask the operator for a new one: `edgeward claim create`.")
    if claim.device not in (None, device):
        raise ClaimRefused(f"The claim token is not for a device named {device!r}.", "Use the name that it was made for.")
    if again and known is not None and known.claim == claim.id:
        return claim
    if claim.uses_left < 1:
        raise ClaimRefused("The claim token is used up.", "Ask the operator for a new one: `edgeward claim create`.")
    if known is not None and not again and not claim.replace:
        raise DeviceNameTaken(
            f"A device named {device!r} is already enrolled with another key.",
            "Choose another name, or make a claim that may replace it: `edgeward claim create --replace`.",
        )
    return claim


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
