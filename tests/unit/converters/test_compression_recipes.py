"""What can be asked of a training: numbers in their ranges, names that differ, and clear refusals. No torch here."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from converters.compression.recipes import (
    DistilRecipe,
    NMPruneRecipe,
    PruneRecipe,
    QatRecipe,
    Schedule,
    SparseRecipe,
    TrainingRecipe,
    check_factory,
    check_recipes,
    parse_nm,
)
from converters.errors import SettingsRejected
from fleet_protocol.names import check_name

ALL: tuple[TrainingRecipe, ...] = (
    PruneRecipe(),
    SparseRecipe(),
    NMPruneRecipe(),
    DistilRecipe(student="nets:small"),
    QatRecipe(),
)


def test_every_kind_is_fine_as_it_comes_and_all_go_together() -> None:
    check_recipes(ALL)


@pytest.mark.parametrize("recipe", ALL)
def test_a_variant_of_every_kind_has_a_name_that_the_fleet_takes(recipe: TrainingRecipe) -> None:
    check_name(f"{recipe.name}-int8-weights")


@pytest.mark.parametrize("recipe", ALL)
def test_the_choices_of_every_kind_are_text_and_name_the_kind(recipe: TrainingRecipe) -> None:
    choices = {**recipe.choices(), **recipe.schedule.choices()}
    assert {"trained", "epochs", "learning_rate", "batch"} <= set(choices)
    assert all(isinstance(value, str) for value in choices.values())


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (PruneRecipe(amount=0.0), "0 cannot be pruned"),
        (PruneRecipe(amount=0.001), "0.001 cannot be pruned"),
        (PruneRecipe(amount=0.96), "give a share from 0.01 to 0.95"),
        (PruneRecipe(amount=float("nan")), "nan cannot be pruned"),
        (PruneRecipe(multiple=0), "multiple = 0"),
        (SparseRecipe(amount=1.0), "1 cannot be pruned"),
        (NMPruneRecipe(n=4, m=4), "4:4 is no N:M pattern"),
        (NMPruneRecipe(n=0, m=4), "0:4 is no N:M pattern"),
        (NMPruneRecipe(n=2, m=65), "at most 64"),
        (DistilRecipe(student="nets:"), "'nets:' is no factory"),
        (DistilRecipe(student="nets:small", soft=1.5), "soft = 1.5"),
        (DistilRecipe(student="nets:small", temperature=0), "temperature = 0"),
        (QatRecipe(schedule=Schedule(epochs=0, learning_rate=1e-3)), "0 epochs for qat"),
        (QatRecipe(schedule=Schedule(epochs=10_001, learning_rate=1e-3)), "give 1 to 10000"),
        (QatRecipe(schedule=Schedule(epochs=1, learning_rate=0)), "learning rate 0 for qat"),
        (QatRecipe(schedule=Schedule(epochs=1, learning_rate=float("nan"))), "learning rate nan"),
        (QatRecipe(schedule=Schedule(epochs=1, learning_rate=1e-3, batch=1)), "Batches of 1"),
    ],
)
def test_a_number_out_of_its_range_is_refused_with_what_is_wanted(recipe: TrainingRecipe, said: str) -> None:
    with pytest.raises(SettingsRejected, match=re.escape(said)):
        check_recipes([recipe])


def test_nothing_to_do_is_refused_with_what_could_be_asked() -> None:
    with pytest.raises(SettingsRejected, match=re.escape("--prune 0.5")):
        check_recipes([])


def test_two_trainings_of_one_name_would_hide_each_other() -> None:
    with pytest.raises(SettingsRejected, match=r"pruned-50 was asked for twice"):
        check_recipes([PruneRecipe(amount=0.5), PruneRecipe(amount=0.501)])
    check_recipes([PruneRecipe(amount=0.5), PruneRecipe(amount=0.7)])


def test_a_pattern_is_read_as_people_write_it() -> None:
    assert parse_nm("2:4") == NMPruneRecipe(n=2, m=4)
    assert parse_nm("1:16") == NMPruneRecipe(n=1, m=16)


@pytest.mark.parametrize("text", ["", "2", "2:", ":4", "4:2", "a:b", "2:4:8", "-1:4", "2:4\n", "200:400"])
def test_what_is_no_pattern_is_refused_by_name(text: str) -> None:
    with pytest.raises(SettingsRejected, match="is no N:M pattern"):
        parse_nm(text)


@pytest.mark.parametrize("text", ["nets:small", "a.b.c:make_it", "größe:netz"])
def test_a_factory_is_a_module_and_a_function(text: str) -> None:
    check_factory(text)


@pytest.mark.parametrize("text", ["", "nets", "nets:", ":small", "nets.py:small()", "../nets:small", "a b:c", "nets:small\n"])
def test_what_is_no_factory_is_refused(text: str) -> None:
    with pytest.raises(SettingsRejected, match="is no factory"):
        check_factory(text)


def test_another_schedule_gives_another_recipe_and_the_same_name() -> None:
    other = replace(PruneRecipe(), schedule=Schedule(epochs=1, learning_rate=1e-3))
    assert other != PruneRecipe()
    assert other.name == PruneRecipe().name
