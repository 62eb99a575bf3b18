"""What can be trained from a given model, as plain values. Pure: no torch, no files, no clock, no chance.

Each says everything that is needed to get its model again from the same training samples and seed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from converters.errors import SettingsRejected

EPOCHS_AT_MOST: Final = 10_000
BATCH_AT_MOST: Final = 65_536
AMOUNT_AT_MOST: Final = 0.95
GROUP_AT_MOST: Final = 64
"""Longest group of an N:M pattern."""

_NM: Final = re.compile(r"([0-9]{1,2}):([0-9]{1,2})\Z")
_FACTORY: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*\Z")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast to train. `learning_rate` is the largest one; it falls to nothing along a cosine."""

    epochs: int
    learning_rate: float
    batch: int = 64

    def choices(self) -> dict[str, str]:
        """The schedule as text, for the manifest."""
        return {"epochs": str(self.epochs), "learning_rate": f"{self.learning_rate:g}", "batch": str(self.batch)}


@dataclass(frozen=True, kw_only=True)
class PruneRecipe:
    """Whole channels go, then the rest is fine-tuned: a smaller and faster dense model on every engine.

    `amount` of the channels of each layer, in (0, 0.95], in multiples of `multiple` where the layer is large enough.
    """

    amount: float = 0.5
    multiple: int = 4
    schedule: Schedule = Schedule(epochs=30, learning_rate=2e-3)

    @property
    def name(self) -> str:
        """What its variants' names start with."""
        return f"pruned-{_percent(self.amount)}"

    def choices(self) -> dict[str, str]:
        """The recipe as text, for the manifest."""
        return {"trained": "channels pruned", "amount": f"{self.amount:g}", "multiple": str(self.multiple)}


@dataclass(frozen=True, kw_only=True)
class SparseRecipe:
    """The smallest weights become zero and stay so: the file packs better on the wire; dense engines run no faster."""

    amount: float = 0.5
    schedule: Schedule = Schedule(epochs=15, learning_rate=1e-3)

    @property
    def name(self) -> str:
        """What its variants' names start with."""
        return f"sparse-{_percent(self.amount)}"

    def choices(self) -> dict[str, str]:
        """The recipe as text, for the manifest."""
        return {"trained": "magnitude pruned", "amount": f"{self.amount:g}"}


@dataclass(frozen=True, kw_only=True)
class NMPruneRecipe:
    """Of each `m` neighbouring weights along the input channels, the `n` largest stay: the pattern of sparse hardware."""

    n: int = 2
    m: int = 4
    schedule: Schedule = Schedule(epochs=15, learning_rate=1e-3)

    @property
    def name(self) -> str:
        """What its variants' names start with."""
        return f"sparse-{self.n}-{self.m}"

    def choices(self) -> dict[str, str]:
        """The recipe as text, for the manifest."""
        return {"trained": "N:M pruned", "pattern": f"{self.n}:{self.m}"}


@dataclass(frozen=True, kw_only=True)
class DistilRecipe:
    """A smaller model of the user's own learns the given one's answers. `student` is `package.module:factory`,
    or the file of a model.

    `temperature` softens both models' answers; `soft` in [0, 1] is the teacher's share of the loss, labels have the rest.
    """

    student: str
    state: Path | None = None
    """Weights that the student starts from; None: as its factory makes it."""
    temperature: float = 2.0
    soft: float = 0.7
    schedule: Schedule = Schedule(epochs=60, learning_rate=3e-3)

    @property
    def name(self) -> str:
        """What its variants' names start with."""
        return "distilled"

    def choices(self) -> dict[str, str]:
        """The recipe as text, for the manifest."""
        told = {"trained": "distilled", "student": self.student}
        return told | {"temperature": f"{self.temperature:g}", "soft": f"{self.soft:g}"}


@dataclass(frozen=True, kw_only=True)
class QatRecipe:
    """The weights learn to stand 8-bit arithmetic, which is imitated while they are fine-tuned. Only static int8 follows."""

    schedule: Schedule = Schedule(epochs=10, learning_rate=5e-4)

    @property
    def name(self) -> str:
        """What its variants' names start with."""
        return "qat"

    def choices(self) -> dict[str, str]:
        """The recipe as text, for the manifest."""
        return {"trained": "quantization-aware"}


TrainingRecipe = PruneRecipe | SparseRecipe | NMPruneRecipe | DistilRecipe | QatRecipe


def check_recipes(recipes: Sequence[TrainingRecipe]) -> None:
    """Raises `SettingsRejected`: none, two of one name, or a number out of its range."""
    if not recipes:
        raise SettingsRejected(
            "Nothing to do was given: ask for --prune 0.5, --sparse 0.5, --nm 2:4, --distil MODULE:factory or --qat."
        )
    for recipe in recipes:
        _check(recipe)
    names = [recipe.name for recipe in recipes]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SettingsRejected(f"{', '.join(twice)} was asked for twice. Ask once, or for different amounts.")


def parse_nm(text: str) -> NMPruneRecipe:
    """`2:4` as a recipe. Raises `SettingsRejected`."""
    found = _NM.match(text)
    if found is None:
        raise SettingsRejected(f"{text!r} is no N:M pattern: give how many of how many weights stay, such as 2:4.")
    recipe = NMPruneRecipe(n=int(found[1]), m=int(found[2]))
    _check(recipe)
    return recipe


def check_factory(text: str) -> None:
    """Raises `SettingsRejected` unless it is of the form `package.module:factory`."""
    if not _FACTORY.match(text):
        raise SettingsRejected(f"{text!r} is no factory: write package.module:function, such as nets.small:make.")


def _check(recipe: TrainingRecipe) -> None:
    if isinstance(recipe, PruneRecipe | SparseRecipe):
        _check_amount(recipe)
    _check_schedule(recipe.name, recipe.schedule)
    if isinstance(recipe, PruneRecipe) and not 1 <= recipe.multiple <= GROUP_AT_MOST:
        raise SettingsRejected(f"multiple = {recipe.multiple} of {recipe.name} is not from 1 to {GROUP_AT_MOST}.")
    if isinstance(recipe, NMPruneRecipe) and not 0 < recipe.n < recipe.m <= GROUP_AT_MOST:
        raise SettingsRejected(
            f"{recipe.n}:{recipe.m} is no N:M pattern: of M weights (at most {GROUP_AT_MOST}) N stay, and N is less than M."
        )
    if isinstance(recipe, DistilRecipe):
        _check_distil(recipe)


def _check_amount(recipe: PruneRecipe | SparseRecipe) -> None:
    if not 0 < recipe.amount <= AMOUNT_AT_MOST or _percent(recipe.amount) == 0:
        raise SettingsRejected(f"{recipe.amount:g} cannot be pruned: give a share from 0.01 to {AMOUNT_AT_MOST}, such as 0.5.")


def _check_distil(recipe: DistilRecipe) -> None:
    if ":" in recipe.student:
        check_factory(recipe.student)
    if not 0 <= recipe.soft <= 1:
        raise SettingsRejected(f"soft = {recipe.soft:g} is no share: give the teacher's part of the loss from 0 to 1.")
    if not 0 < recipe.temperature <= 100:
        raise SettingsRejected(f"temperature = {recipe.temperature:g} is not above 0 and at most 100.")


def _check_schedule(name: str, schedule: Schedule) -> None:
    if not 1 <= schedule.epochs <= EPOCHS_AT_MOST:
        raise SettingsRejected(f"{schedule.epochs} epochs for {name}: give 1 to {EPOCHS_AT_MOST}.")
    if not 0 < schedule.learning_rate <= 10:
        raise SettingsRejected(f"The learning rate {schedule.learning_rate:g} for {name} is not above 0 and at most 10.")
    if not 2 <= schedule.batch <= BATCH_AT_MOST:
        raise SettingsRejected(f"Batches of {schedule.batch} samples for {name}: give 2 to {BATCH_AT_MOST}.")


def _percent(amount: float) -> int:
    return round(amount * 100)
