"""What each processor allows."""

from __future__ import annotations

from typing import get_args

import pytest

from converters.recipe import DYNAMIC, FLOAT, StaticRecipe, WeightsRecipe
from converters.targets import SATURATES, Target, describe, must_check, recipes

TARGETS: tuple[Target, ...] = get_args(Target)


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_gets_float_static_and_weight_only(target: Target) -> None:
    assert {recipe.name for recipe in recipes(target)} == {"float32", "int8-static", "int8-weights"}
    assert describe(target)


@pytest.mark.parametrize("target", TARGETS)
def test_weights_are_kept_to_seven_bits_exactly_where_sums_may_saturate(target: Target) -> None:
    (static,) = [recipe for recipe in recipes(target) if isinstance(recipe, StaticRecipe)]
    assert static.reduce_range == SATURATES[target]


def test_any_is_as_strict_as_the_strictest() -> None:
    full = StaticRecipe(reduce_range=False)
    assert must_check(full, "any")
    assert must_check(full, "avx2")
    assert not must_check(full, "avx512-vnni")
    assert not must_check(full, "arm64")


def test_float_arithmetic_needs_no_check() -> None:
    assert not any(must_check(recipe, "any") for recipe in (FLOAT, WeightsRecipe()))


def test_models_of_products_get_the_dynamic_recipe_too() -> None:
    assert DYNAMIC in recipes("any", products=True)
