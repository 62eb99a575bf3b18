"""What a conversion was asked for, checked before any work is done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from converters.errors import SettingsRejected
from converters.recipe import STANDARD, PlainRecipe, Preference
from converters.targets import SATURATES, Target
from fleet_io.bundle_directory import open_bundle
from fleet_io.errors import BundleDamaged, BundleExists, BundleUnwritable
from fleet_protocol import limits
from fleet_protocol.errors import InvalidName
from fleet_protocol.names import check_name, check_version
from fleet_protocol.processing import Processing

_MINUTES: Final = 24 * 60


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`budget`, `min_accuracy` and `max_regression` are shares in [0, 1]."""

    model: str
    version: str
    out: Path
    budget: float = 0.005
    """Largest loss of accuracy against float (of agreement, where there are no labels) with which a variant ships."""
    min_accuracy: float | None = None
    """Least accuracy of the float model; None: whatever it is, with a warning when it is bad."""
    max_regression: float = 0.1
    """By how much less accurate than the model that a device runs this one may be there, on the golden samples."""
    seed: int = 0
    classes: tuple[str, ...] = ()
    prefer: Preference = "auto"
    target: Target = "any"
    """The processors that the bundle is for."""
    processing: Processing | None = None
    """How what users have becomes the model's inputs, and its outputs results."""
    minutes: float | None = None
    """How long to search for a better static recipe; None: only where the plain one misses the budget, and shortly."""
    tflite: bool | None = None
    """All variants for LiteRT, or none; None: the two that pay, where they can be made."""
    recipes: tuple[PlainRecipe, ...] = STANDARD


def check_settings(settings: Settings) -> None:
    """Raises `SettingsRejected`, or `BundleExists` when something else lies where the bundle shall go."""
    try:
        check_name(settings.model, "model name")
        check_version(settings.version)
    except InvalidName as error:
        raise SettingsRejected(f"{error}.") from error
    for name in ("budget", "min_accuracy", "max_regression"):
        value = getattr(settings, name)
        if value is not None and not 0 <= value <= 1:
            raise SettingsRejected(f"{name} = {value} is not a share: give a number from 0 to 1, such as 0.005.")
    if settings.target not in SATURATES:
        raise SettingsRejected(f"{settings.target!r} is no target: choose one of {', '.join(SATURATES)}.")
    if settings.minutes is not None and not 0 < settings.minutes <= _MINUTES:
        raise SettingsRejected(f"minutes = {settings.minutes} is no time to search: give a number above 0, at most {_MINUTES}.")
    if settings.seed < 0:
        raise SettingsRejected(f"seed = {settings.seed} is negative: give 0 or more.")
    if len(settings.classes) > limits.CLASSES or len(set(settings.classes)) != len(settings.classes):
        raise SettingsRejected(f"The class names must differ, and be at most {limits.CLASSES}.")
    if settings.tflite is False and settings.prefer.startswith("tflite"):
        raise SettingsRejected(f"{settings.prefer} cannot be preferred: variants for LiteRT were not asked for.")
    _check_out(settings)


def _check_out(settings: Settings) -> None:
    """Refuse early what would be refused after minutes of work: only this release's own bundle may lie there."""
    out = settings.out
    try:
        if not out.exists() or (out.is_dir() and not any(out.iterdir())):
            return
    except OSError as error:
        raise BundleUnwritable(f"{out} cannot be looked at: {error.strerror or error}. Choose another --out.") from error
    try:
        manifest = open_bundle(out).manifest
    except BundleDamaged as error:
        raise BundleExists(
            f"{out} already exists and is not a whole bundle. Choose another output directory, or remove it."
        ) from error
    if (manifest.model, manifest.version) != (settings.model, settings.version):
        raise BundleExists(
            f"{out} already holds {manifest.model} {manifest.version}. Choose another output directory, or remove it."
        )
