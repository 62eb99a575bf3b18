"""What is tried, in which order, when it stops, and what is chosen: on made-up scores, without any model."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from converters.judging.measures import Metric
from converters.recipe import StaticRecipe
from converters.search import Budget, Score, Tried, best, key, pareto, search
from converters.searching import _told

START = StaticRecipe()
FOREVER = Budget(seconds=1e9, spent=lambda: 0.0)
NODES = tuple(f"node{at}" for at in range(10))


def score(loss: float = 0.0, *, sqnr: float = 30.0, latency: float = 1.0, size: int = 100, fault: str = "") -> Score:
    return Score(loss=loss, sqnr_db=sqnr, latency=latency, size=size, fault=fault)


def fair(recipe: StaticRecipe) -> Score:
    """MSE clipping helps a little, keeping nodes float helps more and costs time."""
    sqnr = 20.0 + 2 * (recipe.clipping == "mse") + len(recipe.excluded)
    return score(max(0.0, 0.03 - 0.01 * len(recipe.excluded)), sqnr=sqnr, latency=0.8 + 0.02 * len(recipe.excluded))


def nodes(_: StaticRecipe) -> Sequence[str]:
    return NODES


def test_the_plain_recipe_comes_first_and_nothing_is_tried_twice() -> None:
    tried = search(START, fair, nodes, FOREVER)
    assert tried[0].recipe == START
    keys = [key(each.recipe) for each in tried]
    assert len(set(keys)) == len(keys) > 6


def test_full_range_and_smoothing_are_tried_only_where_they_may_be() -> None:
    plain = search(START, fair, nodes, FOREVER)
    assert all(each.recipe.reduce_range and each.recipe.smooth is None for each in plain)
    more = search(START, fair, nodes, FOREVER, full_range=True, products=True)
    assert any(not each.recipe.reduce_range for each in more)
    assert any(each.recipe.smooth for each in more)


def test_the_worst_nodes_of_the_best_recipe_so_far_are_kept_float() -> None:
    excluded = [each.recipe for each in search(START, fair, nodes, FOREVER) if each.recipe.excluded]
    assert [recipe.excluded for recipe in excluded] == [NODES[:count] for count in (1, 2, 4, 8)]
    assert {recipe.clipping for recipe in excluded} == {"mse"}


def test_biases_are_corrected_once_for_the_best_recipe_and_stay_so_only_where_it_helps() -> None:
    def helped(recipe: StaticRecipe) -> Score:
        return score(0.03 - 0.02 * recipe.corrected - 0.005 * (recipe.clipping == "mse"))

    tried = [each.recipe for each in search(START, helped, nodes, FOREVER)]
    corrected = [recipe for recipe in tried if recipe.corrected]
    assert corrected[0].clipping == "mse"
    assert not corrected[0].excluded
    assert all(recipe.corrected for recipe in tried if recipe.excluded)
    assert [recipe.corrected for recipe in (each.recipe for each in search(START, fair, nodes, FOREVER))].count(True) == 1


def test_time_ends_it_after_at_least_one_trial() -> None:
    seconds = iter(range(100))
    assert len(search(START, fair, nodes, Budget(seconds=0.0, spent=lambda: 5.0))) == 1
    assert len(search(START, fair, nodes, Budget(seconds=3.0, spent=lambda: float(next(seconds))))) == 4


def test_the_first_recipe_that_fits_ends_a_short_search() -> None:
    def picky(recipe: StaticRecipe) -> Score:
        return score(fault="" if recipe.clipping == "percentile" else "loses 3 points")

    tried = search(START, picky, nodes, Budget(seconds=1e9, spent=lambda: 0.0, enough=True))
    assert [each.score.fits for each in tried] == [False] * (len(tried) - 1) + [True]
    assert tried[-1].recipe.clipping == "percentile"


def test_a_search_goes_on_from_its_journal() -> None:
    first = search(START, fair, nodes, FOREVER)
    asked: list[StaticRecipe] = []
    told: list[Tried] = []

    def counting(recipe: StaticRecipe) -> Score:
        asked.append(recipe)
        return fair(recipe)

    known = {key(each.recipe): each.score for each in first[:4]}
    again = search(START, counting, nodes, FOREVER, known=known, tell=told.append)
    assert again == first
    assert asked == [each.recipe for each in first[4:]] == [each.recipe for each in told]


def test_nothing_fits_when_everything_is_at_fault() -> None:
    tried = [Tried(START, score(fault="answers NaN"))]
    assert best(tried) is None
    assert pareto(tried) == []


def test_the_fastest_wins_and_noise_decides_among_equals() -> None:
    slow = Tried(START, score(latency=1.5, sqnr=60))
    quick = Tried(StaticRecipe(clipping="mse"), score(latency=0.82, sqnr=20, loss=0.001))
    quieter = Tried(StaticRecipe(symmetric=True), score(latency=0.85, sqnr=25))
    assert best([slow, quick, quieter]) == quieter


SCORES = st.builds(
    Score, loss=st.floats(0, 1), sqnr_db=st.floats(0, 60), latency=st.floats(0.1, 5), size=st.integers(1, 1000),
    fault=st.sampled_from(["", "", "", "is bad"]),
)  # fmt: skip


@given(st.lists(SCORES, max_size=12))
def test_what_is_chosen_is_never_beaten(scores: list[Score]) -> None:
    tried = [Tried(START, each) for each in scores]
    front, chosen = pareto(tried), best(tried)
    assert (chosen is None) == (not any(each.fits for each in scores))
    if chosen is not None:
        assert chosen in front
        assert not any(
            other.fits
            and other.loss < chosen.score.loss
            and other.latency < chosen.score.latency
            and other.size < chosen.score.size
            for other in scores
        )


def test_progress_tells_losses_in_what_the_model_is_judged_by() -> None:
    seen = [Tried(StaticRecipe(), Score(loss=0.0123, sqnr_db=30.0, latency=0.8, size=1))]
    assert _told(seen, None).endswith("loses 1.23 points")
    assert _told(seen, Metric("recall of threes", lambda *_: 1.0)).endswith("loses 0.0123 of recall of threes")
