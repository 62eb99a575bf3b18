"""A device's report fits into its message, whatever happened on the device."""

from __future__ import annotations

import msgspec

from fleet_protocol import limits
from fleet_protocol.digests import digest_of
from fleet_protocol.states import ModelReport, Refusal, ReportedState, Running, decode_reported, encode_reported

NAME = "n" * 63
VERSION = "999999999.999999999.999999999-" + "r" * 31
DIGEST = digest_of(b"content")


def a_report(models: int, reason: str) -> ReportedState:
    """Every model with as many refusals as are kept, and the longest names there are."""
    refusal = Refusal(version=VERSION, manifest=DIGEST, attempt=2**53 - 1, phase="rolling_back", reason=reason)
    runs = Running(version=VERSION, manifest=DIGEST, variant=NAME, file=DIGEST)
    return ReportedState(
        device=NAME,
        boot="0" * 32,
        sequence=1,
        agent="0.1.0",
        models=tuple(
            ModelReport(
                model=f"{at:02}{NAME[2:]}",
                phase="rolling_back",
                running=runs,
                target=DIGEST,
                refused=(refusal,) * 8,
                progress=1 / 3,
            )
            for at in range(models)
        ),
    )


def test_a_report_with_room_for_its_reasons_says_them_whole() -> None:
    report = a_report(1, "too wrong on the golden samples. " * 30)
    assert decode_reported(encode_reported(report)) == report


def test_a_report_of_all_models_with_all_their_refusals_fits_with_shorter_reasons() -> None:
    report = a_report(limits.ASSIGNMENTS, "too wrong on the golden samples. " * 30)
    told = decode_reported(encode_reported(report))
    assert [len(each.refused) for each in told.models] == [8] * limits.ASSIGNMENTS
    reasons = {each.reason for model in told.models for each in model.refused}
    assert reasons == {report.models[0].refused[0].reason[:100]}


def test_reasons_that_take_six_bytes_a_character_are_cut_and_no_refusal_is_left_out() -> None:
    told = decode_reported(encode_reported(a_report(limits.ASSIGNMENTS, "\x01" * 1000)))
    assert [len(each.refused) for each in told.models] == [8] * limits.ASSIGNMENTS
    assert {each.reason for model in told.models for each in model.refused} == {"\x01" * 30}


def test_what_is_reported_of_a_full_device_stays_below_what_a_broker_takes() -> None:
    report = msgspec.structs.replace(a_report(limits.ASSIGNMENTS, "x" * 1000), hardware={"machine": "m" * 200})
    assert len(encode_reported(report)) <= limits.REPORTED_BYTES < limits.MESSAGE_BYTES
