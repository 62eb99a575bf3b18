"""The figures by which answers are compared."""

from __future__ import annotations

import numpy as np
import pytest

from runtime import parity


def test_equal_answers_have_the_highest_ratio() -> None:
    assert parity.sqnr_db(np.ones(3), np.ones(3)) == parity.SQNR_LIMIT_DB
    assert parity.sqnr_db(np.zeros(3), np.zeros(3)) == parity.SQNR_LIMIT_DB


def test_a_tenth_of_the_amplitude_in_noise_is_twenty_decibels() -> None:
    assert parity.sqnr_db(np.array([1.0, -1.0]), np.array([1.1, -0.9])) == pytest.approx(20.0)


def test_noise_where_silence_was_wanted_has_the_lowest_ratio() -> None:
    assert parity.sqnr_db(np.zeros(3), np.ones(3)) == -parity.SQNR_LIMIT_DB


def test_the_ratio_does_not_overflow_in_half_precision() -> None:
    wanted = np.full(1000, 60000, np.float16)
    assert parity.sqnr_db(wanted, wanted * np.float16(0.5)) == pytest.approx(6.02, abs=0.01)


def test_agreement_is_the_share_of_equal_classes() -> None:
    wanted = np.array([[0, 1], [1, 0], [0, 1], [1, 0]], np.float32)
    got = np.array([[0, 1], [1, 0], [1, 0], [1, 0]], np.float32)
    assert parity.agreement(wanted, got) == 0.75


def test_whole_numbers_are_classes_themselves() -> None:
    assert parity.agreement(np.array([1, 2, 3]), np.array([1, 2, 0])) == pytest.approx(2 / 3)


@pytest.mark.parametrize("answers", [np.zeros((3, 1)), np.zeros(3), np.zeros((3, 2, 2)), np.array([["a", "b"]])])
def test_what_is_no_class_has_no_agreement(answers: np.ndarray) -> None:
    assert parity.agreement(answers, answers) is None
    assert parity.accuracy(answers, np.zeros(3, np.int64)) is None


def test_accuracy_is_the_share_of_labels_that_were_met() -> None:
    assert parity.accuracy(np.array([[0, 1], [1, 0]]), np.array([1, 1])) == 0.5


def test_nothing_to_compare_is_no_figure() -> None:
    assert parity.accuracy(np.zeros((0, 3)), np.zeros(0, np.int64)) is None
    assert parity.agreement(np.zeros((0, 3)), np.zeros((0, 3))) is None
