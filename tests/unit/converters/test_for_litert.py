"""Which variants for LiteRT are tried, by what was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from converters.errors import SettingsRejected
from converters.for_litert import quiet, settled, wanted
from converters.judging.trial import Trial
from converters.recipe import FLOAT, TFLITE, TFLITE_LEAN, TfliteRecipe
from converters.settings import Settings, check_settings


def settings(**given: Any) -> Settings:
    return Settings(model="m", version="1.0.0", out=Path("nowhere"), **given)


def fine(recipe: TfliteRecipe) -> Trial:
    return Trial(recipe, fault="", path=Path("x"))


def noisy(recipe: TfliteRecipe) -> Trial:
    return Trial(recipe, fault="is noisy", path=Path("x"))


@pytest.mark.parametrize(
    ("given", "recipes"),
    [
        ({}, TFLITE_LEAN),
        ({"tflite": True}, TFLITE),
        ({"tflite": False}, ()),
        ({"prefer": "tflite-int8"}, TFLITE_LEAN),
        ({"prefer": "tflite-float32"}, TFLITE),
        ({"prefer": "int8-static"}, TFLITE_LEAN),
    ],
)
def test_what_is_tried_follows_from_what_was_asked_for(given: dict[str, Any], recipes: tuple[TfliteRecipe, ...]) -> None:
    assert wanted(settings(**given)) == recipes


def test_none_cannot_be_preferred_where_none_is_wanted() -> None:
    with pytest.raises(SettingsRejected, match="tflite-int8 cannot be preferred"):
        check_settings(settings(tflite=False, prefer="tflite-int8"))


def test_float_is_tried_only_where_neither_of_the_two_may_ship() -> None:
    float_trial = Trial(FLOAT, fault="", path=Path("x"))
    both = [float_trial, *map(noisy, TFLITE_LEAN)]
    kept, note = settled(both, settings(), fine)
    assert [trial.recipe.name for trial in kept] == ["float32", "tflite-int8", "tflite-int8-weights", "tflite-float32"]
    assert note == ""
    one = [float_trial, noisy(TFLITE_LEAN[0]), fine(TFLITE_LEAN[1])]
    assert settled(one, settings(), fine) == (one, "")


def test_what_cannot_be_made_is_a_note_and_no_trial() -> None:
    refused = [Trial(recipe, fault="cannot be made: no form for Sinh") for recipe in TFLITE]
    kept, note = settled([Trial(FLOAT, fault="", path=Path("x")), *refused[1:]], settings(), lambda _: refused[0])
    assert [trial.recipe.name for trial in kept] == ["float32"]
    assert note == "No variants for LiteRT: tflite-int8 cannot be made: no form for Sinh."


def test_what_was_asked_for_is_left_out_loudly() -> None:
    refused = [Trial(recipe, fault="cannot be made") for recipe in TFLITE]
    assert settled(refused, settings(tflite=True), fine) == (refused, "")
    assert not any(quiet(trial, settings(tflite=True)) for trial in refused)
    assert all(quiet(trial, settings()) for trial in refused)
    assert not quiet(refused[1], settings(prefer="tflite-int8"))
    assert not quiet(Trial(FLOAT, fault="x"), settings())
