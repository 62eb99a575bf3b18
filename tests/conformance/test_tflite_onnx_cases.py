"""ONNX's own test cases of single operators through the TFLite emitter: each answers as it should, or is refused in words.

As in `test_onnx_backend_nodes.py` a plain run takes some files of cases, `make soak` all; `python -m bench operators` counts.
"""

from __future__ import annotations

import pytest

from bench.operators import FILES, outcome
from tests.conformance.test_onnx_backend_nodes import cases_of

CHOSEN = [each for each in FILES[::12] if each != "image_decoder"]
WITHOUT_TENSORS = {"sequence_map", "sequenceinsert"}
"""Files whose cases hold sequences, which are no inputs here."""


@pytest.mark.parametrize("file", CHOSEN)
def test_no_answer_is_wrong_and_nothing_breaks(file: str) -> None:
    hold(file)


@pytest.mark.soak
@pytest.mark.parametrize("file", [each for each in FILES if each not in CHOSEN and each not in WITHOUT_TENSORS])
def test_no_answer_of_all_is_wrong_and_nothing_breaks(file: str) -> None:
    hold(file)


def hold(file: str) -> None:
    faults = [found for found in map(outcome, cases_of(file)) if found.verdict in ("wrong", "crash")]
    assert not faults
