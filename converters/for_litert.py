"""Which variants for LiteRT a conversion tries, and which of them it keeps. What makes and measures them is elsewhere.

Asked for, all are tried, and what cannot be made is left out as loudly as anything else. Where nobody said a word, the two that
pay are tried if they can be made at all; if not, one quiet note says why: the ONNX variants are what was asked for.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Final

from converters.judging.trial import Trial
from converters.recipe import TFLITE, TFLITE_LEAN, TfliteRecipe
from converters.settings import Settings

_PACKAGES: Final = {"ai_edge_litert": "ai-edge-litert", "ai_edge_quantizer": "ai-edge-quantizer", "flatbuffers": "flatbuffers"}
_FLOAT: Final = TFLITE[0]


def wanted(settings: Settings) -> tuple[TfliteRecipe, ...]:
    """What to try. Preferring one that is beyond the two asks for all."""
    if settings.tflite is False:
        return ()
    lean = {"auto", *(recipe.name for recipe in TFLITE_LEAN)}
    if settings.tflite or (settings.prefer.startswith("tflite") and settings.prefer not in lean):
        return TFLITE
    return () if _missing() else TFLITE_LEAN


def settled(trials: Sequence[Trial], settings: Settings, attempt: Callable[[TfliteRecipe], Trial]) -> tuple[list[Trial], str]:
    """The trials that are worth a word, and a note for people on why there are none for LiteRT; empty where there are.

    Where nobody asked for them and neither of the two may ship, float is tried, so that devices with LiteRT alone get a model.
    """
    if settings.tflite is not None:
        return list(trials), ""
    if _missing():
        return list(trials), f"No variants for LiteRT: {', '.join(_missing())} is not installed."
    own = [trial for trial in trials if isinstance(trial.recipe, TfliteRecipe)]
    made = [trial for trial in own if trial.path is not None]
    if own and not any(not trial.fault for trial in own) and _FLOAT not in [trial.recipe for trial in own]:
        made.append(attempt(_FLOAT))
    kept = [trial for trial in made if trial.path is not None]
    others = [trial for trial in trials if trial not in own]
    note = "" if kept or not own else f"No variants for LiteRT: {own[0].recipe.name} {own[0].fault.rstrip('.')}."
    return [*others, *kept], note


def quiet(trial: Trial, settings: Settings) -> bool:
    """Whether leaving it out is no bad news: nobody asked for it, and what was asked for is there."""
    return settings.tflite is None and trial.recipe.format == "tflite" and settings.prefer != trial.recipe.name


def _missing() -> list[str]:
    return [name for module, name in _PACKAGES.items() if importlib.util.find_spec(module) is None]
