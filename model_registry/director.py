"""The director: signs which of the published releases one device should run (DESIGN.md §4, Uptane's division of roles).

Its key is online, so it can only choose: what a device installs must also be signed by the model's publisher. The signature
stands in a DSSE envelope; payload and rules are `fleet_protocol.states`.
"""

from __future__ import annotations

import json
from typing import Final

from securesystemslib.dsse import Envelope
from securesystemslib.signer import Signer

from fleet_protocol import limits
from fleet_protocol.errors import LimitExceeded
from fleet_protocol.states import DESIRED_PAYLOAD_TYPE, Assignment, DesiredState, encode_desired

VALID_S: Final = 14 * 24 * 3600
"""A device that gets no newer word for so long installs nothing more; what runs goes on."""


def desired_state(device: str, assignments: tuple[Assignment, ...], *, sequence: int, now: float) -> DesiredState:
    """What `device` should run, from now on. Raises `LimitExceeded` when it is more than a device takes."""
    if len(assignments) > limits.ASSIGNMENTS:
        raise LimitExceeded(f"{device} is assigned {len(assignments)} models; a device runs at most {limits.ASSIGNMENTS}")
    issued = int(now)
    return DesiredState(device=device, sequence=sequence, issued=issued, expires=issued + VALID_S, assignments=assignments)


def renewal_due(now: float) -> float:
    """Words that expire before this time are signed anew: less than half of their validity is left."""
    return now + VALID_S / 2


def seal(state: DesiredState, signer: Signer) -> bytes:
    """The signed message for the device's `desired` topic. Raises `LimitExceeded` when it is too large."""
    envelope = Envelope(encode_desired(state), DESIRED_PAYLOAD_TYPE, {})
    envelope.sign(signer)
    return json.dumps(envelope.to_dict(), separators=(",", ":")).encode()
