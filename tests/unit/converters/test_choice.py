"""What ships, in which order, and the reason that people read."""

from __future__ import annotations

import pytest

from converters.choice import Candidate, choose
from converters.errors import SettingsRejected


def candidates(static: Candidate | None = None, weights: Candidate | None = None) -> list[Candidate]:
    return [
        Candidate("float32", latency_ratio=1.0),
        static or Candidate("int8-static", latency_ratio=0.9),
        weights or Candidate("int8-weights", latency_ratio=1.0),
    ]


def test_int8_arithmetic_comes_first_when_it_is_not_slower() -> None:
    choice = choose(candidates(), "auto")
    assert choice.order == ("int8-static", "int8-weights", "float32")
    assert choice.reason == "int8-static first: within the accuracy budget and not slower than float."


@pytest.mark.parametrize(
    ("latency", "low", "slower"), [(1.05, 0.99, False), (1.005, 1.001, False), (1.02, 1.01, True), (1.2, 1.1, True)]
)
def test_slower_is_what_is_surely_slower_and_by_more_than_chance_of_memory(latency: float, low: float, slower: bool) -> None:
    weights = Candidate("int8-weights", latency_ratio=latency, latency_low=low)
    choice = choose(candidates(static=Candidate("int8-static", fault="x"), weights=weights), "auto")
    assert choice.order == (("float32", "int8-weights") if slower else ("int8-weights", "float32"))
    assert ("int8-weights was slower than float" in choice.reason) == slower


def test_where_all_are_slower_the_reason_says_so_and_the_smallest_arithmetic_leads() -> None:
    all_slower = [Candidate(name, latency_ratio=1.06, latency_low=1.03) for name in ("float32", "int8-static", "int8-weights")]
    choice = choose(all_slower, "auto")
    assert choice.order == ("int8-static", "int8-weights", "float32")
    assert choice.reason == (
        "int8-static first: within the accuracy budget; slower than float on the machine that converted, as all are."
    )


def test_slower_arithmetic_comes_after_float_with_the_reason() -> None:
    choice = choose(candidates(static=Candidate("int8-static", latency_ratio=1.3)), "auto")
    assert choice.order == ("int8-weights", "float32", "int8-static")
    assert "int8-static was slower than float" in choice.reason


def test_a_variant_out_of_budget_is_left_out_with_the_reason() -> None:
    choice = choose(candidates(static=Candidate("int8-static", fault="loses 3 points")), "auto")
    assert choice.order == ("int8-weights", "float32")
    assert "int8-static loses 3 points" in choice.reason


def test_float_alone_ships_when_nothing_else_may() -> None:
    faulty = [Candidate(name, fault="answers NaN") for name in ("int8-static", "int8-weights")]
    choice = choose(candidates(*faulty), "auto")
    assert choice.order == ("float32",)
    assert choice.reason == "float32 first; int8-static answers NaN, and int8-weights answers NaN."


def test_what_was_asked_for_comes_first_even_when_it_is_slower() -> None:
    choice = choose(candidates(static=Candidate("int8-static", latency_ratio=2.0)), "int8-static")
    assert choice.order[0] == "int8-static"
    assert set(choice.order) == {"int8-static", "int8-weights", "float32"}


def test_what_may_not_ship_cannot_be_asked_for() -> None:
    with pytest.raises(SettingsRejected, match="int8-static cannot be preferred: it loses 3 points"):
        choose(candidates(static=Candidate("int8-static", fault="loses 3 points")), "int8-static")


def test_a_variant_in_doubt_comes_after_what_is_sure_with_the_reason() -> None:
    choice = choose(candidates(static=Candidate("int8-static", latency_ratio=0.5, doubt="turned 6 of 300 wrong")), "auto")
    assert choice.order == ("int8-weights", "float32", "int8-static")
    assert "int8-static turned 6 of 300 wrong" in choice.reason


def test_what_is_clearly_faster_goes_first_whatever_its_arithmetic() -> None:
    choice = choose(
        candidates(static=Candidate("int8-static", latency_ratio=0.95), weights=Candidate("int8-weights", "", 0.5)), "auto"
    )
    assert choice.order == ("int8-weights", "int8-static", "float32")
    assert "int8-static was clearly slower" in choice.reason


def across(**ratios: float) -> tuple[str, ...]:
    """The order of both engines' variants with these latencies."""
    return choose([Candidate(name.replace("_", "-"), latency_ratio=ratio) for name, ratio in ratios.items()], "auto").order


def test_the_fastest_engine_goes_first_and_each_engines_own_order_stays() -> None:
    order = across(float32=1.0, int8_static=1.2, int8_weights=1.0, tflite_int8=0.4, tflite_int8_weights=0.6)
    assert order == ("tflite-int8", "tflite-int8-weights", "int8-weights", "float32", "int8-static")


def test_another_engine_that_is_slower_comes_after_float() -> None:
    order = across(float32=1.0, int8_static=0.8, int8_weights=1.0, tflite_int8=1.2, tflite_int8_weights=1.2)
    assert order == ("int8-static", "int8-weights", "float32", "tflite-int8", "tflite-int8-weights")


def test_equally_fast_engines_leave_onnx_first() -> None:
    assert across(float32=1.0, int8_static=0.8, tflite_int8=0.78)[:2] == ("int8-static", "tflite-int8")


def test_float_weights_go_before_small_ones_only_when_they_are_much_faster() -> None:
    assert across(float32=0.92, int8_weights=1.0)[0] == "int8-weights"
    assert across(float32=0.5, int8_weights=0.51, int8_static=0.9)[0] == "int8-weights"
    assert across(float32=0.85, int8_weights=1.0)[0] == "float32"


def test_weights_in_8_bits_are_in_no_doubt_on_either_engine() -> None:
    fit = [
        Candidate("float32", latency_ratio=1.0),
        Candidate("tflite-int8", latency_ratio=0.3, doubt="turned 6 of 300 wrong"),
        Candidate("tflite-int8-weights", latency_ratio=0.7, doubt="turned 2 of 300 wrong"),
    ]
    assert choose(fit, "auto").order == ("tflite-int8-weights", "float32", "tflite-int8")


def test_people_hear_what_devices_without_litert_take() -> None:
    fit = [*candidates(), Candidate("tflite-int8", latency_ratio=0.3)]
    assert choose(fit, "auto").reason.endswith("Devices without LiteRT take int8-static first.")
    assert "LiteRT" not in choose(candidates(), "auto").reason


def test_a_preferred_variant_goes_first_and_the_others_keep_their_order() -> None:
    fit = [*candidates(), Candidate("tflite-int8", latency_ratio=0.3)]
    assert choose(fit, "int8-weights").order == ("int8-weights", "tflite-int8", "int8-static", "float32")
