"""The processors that a bundle can be made for, and what each does to int8. Pure: a table, and what follows from it.

| target | 8-bit products | so |
|---|---|---|
| avx2 | added in 16 bits, cut off where they do not fit | static int8 keeps weights to 7 bits, or is checked |
| avx512-vnni | added in 32 bits | static int8 uses all 8 bits |
| arm64-dotprod | added in 32 bits | the same |
| arm64 | widened to 16 bits one by one, added in 32 | the same |
| any | unknown | what is right on avx2 is right on all of them |
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, Literal

from converters.recipe import ALPHA, DYNAMIC, FLOAT, PRODUCTS, PlainRecipe, Recipe, StaticRecipe, TrainedRecipe, WeightsRecipe

Target = Literal["any", "avx2", "avx512-vnni", "arm64-dotprod", "arm64"]

SATURATES: Final[dict[Target, bool]] = {
    "any": True,
    "avx2": True,
    "avx512-vnni": False,
    "arm64-dotprod": False,
    "arm64": False,
}
"""Whether the target has, or may have, processors that cut sums of two 8-bit products off at 16 bits."""

_NAMES: Final[dict[Target, str]] = {
    "any": "some processors of the fleet (AVX2 without VNNI)",
    "avx2": "AVX2 processors without VNNI",
    "avx512-vnni": "AVX-512 processors with VNNI",
    "arm64-dotprod": "64-bit Arm processors with dot products",
    "arm64": "64-bit Arm processors",
}


def describe(target: Target) -> str:
    """The target's processors, for people."""
    return _NAMES[target]


def recipes(target: Target, *, products: bool = False) -> tuple[PlainRecipe, ...]:
    """What is tried for a target when no search is asked for. `products`: the model works mostly by products of matrices.

    Then only products are in integers, and smoothed: 13 dB without, 37 dB with it on an encoder of three layers (measured).
    """
    static = StaticRecipe(reduce_range=SATURATES[target])
    static = replace(static, smooth=ALPHA, operators=PRODUCTS) if products else static
    return (FLOAT, static, *((DYNAMIC,) if products else ()), WeightsRecipe())


def arithmetic(target: Target) -> dict[str, str]:
    """Session options under which this machine computes as the target does, to be measured with and not to be shipped.

    Where the target adds in 32 bits, a build machine that saturates may not ruin what is right there; others ignore the option.
    """
    return {} if SATURATES[target] else {"session.x64quantprecision": "1"}


def must_check(recipe: Recipe, target: Target) -> bool:
    """Whether a variant ships only when the emulated check finds it right on a saturating processor too."""
    plain = recipe.then if isinstance(recipe, TrainedRecipe) else recipe
    return SATURATES[target] and isinstance(plain, StaticRecipe)
