"""The director's signed words: what stands in them, and that nobody else's key will do."""

from __future__ import annotations

import json

import pytest
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner

from fleet_protocol.digests import digest_of
from fleet_protocol.errors import LimitExceeded
from fleet_protocol.states import DESIRED_PAYLOAD_TYPE, Assignment, decode_desired
from model_registry import director

NOW = 1_800_000_000.75


def assignment(model: str) -> Assignment:
    return Assignment(model=model, version="1.0.0", manifest=digest_of(model.encode()))


def test_a_word_is_signed_and_says_what_how_long_and_in_which_order() -> None:
    signer = CryptoSigner.generate_ed25519()
    state = director.desired_state("cam", (assignment("digits"),), sequence=3, now=NOW)
    envelope = Envelope.from_dict(json.loads(director.seal(state, signer)))
    envelope.verify([signer.public_key], 1)
    assert envelope.payload_type == DESIRED_PAYLOAD_TYPE
    assert decode_desired(envelope.payload) == state
    assert (state.device, state.sequence, state.issued) == ("cam", 3, int(NOW))
    assert state.expires - state.issued == director.VALID_S


def test_another_key_does_not_verify_it() -> None:
    state = director.desired_state("cam", (), sequence=1, now=NOW)
    envelope = Envelope.from_dict(json.loads(director.seal(state, CryptoSigner.generate_ed25519())))
    with pytest.raises(VerificationError):
        envelope.verify([CryptoSigner.generate_ed25519().public_key], 1)


def test_a_word_that_no_device_would_read_is_not_signed() -> None:
    crowd = tuple(assignment(f"{'m' * 60}-{at:02}") for at in range(17))
    with pytest.raises(LimitExceeded, match="17 models"):
        director.desired_state("cam", crowd, sequence=1, now=NOW)
    director.seal(director.desired_state("cam", crowd[:16], sequence=1, now=NOW), CryptoSigner.generate_ed25519())


def test_a_word_is_renewed_when_half_of_its_time_is_over() -> None:
    word = director.desired_state("cam", (), sequence=1, now=NOW)
    assert word.expires >= director.renewal_due(word.issued + 0.49 * director.VALID_S)
    assert word.expires < director.renewal_due(word.issued + 0.51 * director.VALID_S)
