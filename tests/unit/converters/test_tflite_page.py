"""`docs/tflite.md` lists the operators that there are, and the forms that each refuses, as the code says them."""

from __future__ import annotations

import pytest

from converters.errors import UnsupportedOperator
from converters.tflite import emit, prepare
from tests.support.tflite_cases import SAMPLES, Case, graph
from tests.support.tflite_page import PAGE, names, page, refused


def test_the_page_says_of_operators_what_the_code_does() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m tests.support.tflite_page"


def test_refusals_are_found_through_the_functions_that_an_operator_calls() -> None:
    assert "3" not in names()
    assert "its image's size grows with the number of samples" in refused()["MaxPool"]
    assert refused()["LSTM"][-1].startswith("computed at run time: biases, ")
    assert "Relu" not in refused()


def test_an_operator_that_is_taken_apart_says_what_it_needs() -> None:
    case = Case("Einsum", [(SAMPLES, 4, 4)], attributes={"equation": "bii->bi"})
    with pytest.raises(UnsupportedOperator, match=r"no form for Einsum 'tested' \(it needs each letter once in an operand"):
        emit(prepare(graph(case)))
