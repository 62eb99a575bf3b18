"""Looks for the static recipe that is right, fast and small: what to try next, and what of it all was best. Pure.

It knows recipes and scores, no model: `evaluate` makes and measures. The order of trials depends only on accuracy and noise, so
that it is the same for the same seed and samples; seconds decide only among what is right. Scores of a search that was
stopped let it go on: what is known is not tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from converters.recipe import ALPHA, PRODUCTS, QUANTIZED_OPERATORS, StaticRecipe

EXCLUDED: Final = (1, 2, 4, 8)
"""How many of the most sensitive nodes are kept float, one step after another."""

_SAME_LATENCY: Final = 0.05
"""Ratios that differ by less are the measurement's own noise."""


@dataclass(frozen=True)
class Score:
    """How one recipe did on the search samples. `fault` says why it may not ship; then the rest may be worthless."""

    loss: float
    """Accuracy (or agreement) lost against float, as a share."""
    sqnr_db: float
    latency: float
    """Over the given model's."""
    size: int
    fault: str = ""

    @property
    def fits(self) -> bool:
        """Whether it may ship."""
        return not self.fault


@dataclass(frozen=True)
class Tried:
    """A recipe and its score."""

    recipe: StaticRecipe
    score: Score


Evaluate = Callable[[StaticRecipe], Score]
Rank = Callable[[StaticRecipe], Sequence[str]]
"""The nodes that a recipe's model suffers from, worst first."""


@dataclass(frozen=True)
class Budget:
    """When to stop. `spent` tells the seconds since the start; `enough` stops at the first recipe that fits."""

    seconds: float
    spent: Callable[[], float]
    enough: bool = False

    def over(self, tried: Sequence[Tried]) -> bool:
        """Whether no further trial may begin."""
        return self.spent() >= self.seconds or (self.enough and any(each.score.fits for each in tried))


def search(
    start: StaticRecipe,
    evaluate: Evaluate,
    rank: Rank,
    budget: Budget,
    *,
    full_range: bool = False,
    products: bool = False,
    known: Mapping[str, Score] | None = None,
    tell: Callable[[Tried], None] = lambda _: None,
) -> list[Tried]:
    """Everything that was tried, in order, `start` first; at least that one.

    `full_range`: the target may use all 8 bits of weights. `products`: smoothing is worth a try. `known` are scores of an
    earlier search by `key`; `tell` hears of each new trial, to write it down.
    """
    tried: list[Tried] = []
    seen: set[str] = set()
    earlier = known or {}
    for recipe in _proposals(start, tried, rank, full_range=full_range, products=products):
        if key(recipe) in seen:
            continue
        if tried and budget.over(tried):
            break
        seen.add(key(recipe))
        found = Tried(recipe, earlier[key(recipe)] if key(recipe) in earlier else evaluate(recipe))
        tried.append(found)
        if key(recipe) not in earlier:
            tell(found)
    return tried


def key(recipe: StaticRecipe) -> str:
    """What tells recipes apart, as text that is the same in every run."""
    parts = [
        f"channel={int(recipe.per_channel)}", f"reduced={int(recipe.reduce_range)}", f"clip={recipe.clipping}",
        f"symmetric={int(recipe.symmetric)}", f"smooth={recipe.smooth}", f"corrected={int(recipe.corrected)}",
        f"float={'|'.join(recipe.excluded)}", f"operators={len(recipe.operators)}",
    ]  # fmt: skip
    return " ".join(parts)


def _proposals(
    start: StaticRecipe, tried: Sequence[Tried], rank: Rank, *, full_range: bool, products: bool
) -> Iterator[StaticRecipe]:
    """Cheap changes one at a time, then the best of them together, then nodes kept float. Looks at `tried` as it grows."""
    yield start
    if products:
        for alpha in (ALPHA, 0.5):
            yield replace(start, smooth=alpha, operators=PRODUCTS)
        yield replace(start, smooth=None, operators=QUANTIZED_OPERATORS)
    yield replace(start, clipping="mse")
    yield replace(start, clipping="percentile")
    if full_range:
        yield replace(start, reduce_range=False)
    yield replace(start, per_channel=not start.per_channel)
    yield replace(start, symmetric=not start.symmetric)
    best = _most_right(tried)
    for clipping in ("mse", "percentile"):
        yield replace(best, clipping=clipping)
    yield replace(_most_right(tried), corrected=True)
    best = _most_right(tried)
    ranked = tuple(rank(best))
    for count in EXCLUDED:
        if count <= len(ranked):
            yield replace(best, excluded=ranked[:count])


def _most_right(tried: Sequence[Tried]) -> StaticRecipe:
    """The recipe with the least loss; of equal ones that with the least noise; of equal ones the first."""
    return min(tried, key=lambda each: (not each.score.fits, round(each.score.loss, 4), -round(each.score.sqnr_db, 1))).recipe


def pareto(tried: Sequence[Tried]) -> list[Tried]:
    """Those that fit and that no other one beats in loss, latency and size at once, in the order in which they were tried."""
    fit = [each for each in tried if each.score.fits]
    return [each for each in fit if not any(_beats(other.score, each.score) for other in fit)]


def best(tried: Sequence[Tried]) -> Tried | None:
    """The one to ship: of those that fit, the fastest; among those as fast within the measurement's noise the least noisy."""
    front = pareto(tried)
    if not front:
        return None
    fastest = min(each.score.latency for each in front)
    quick = [each for each in front if each.score.latency <= fastest + _SAME_LATENCY]
    return max(quick, key=lambda each: each.score.sqnr_db)


def _beats(one: Score, other: Score) -> bool:
    ours, theirs = (one.loss, one.latency, one.size), (other.loss, other.latency, other.size)
    return ours != theirs and all(mine <= yours for mine, yours in zip(ours, theirs, strict=True))
