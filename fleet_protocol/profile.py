"""The reference profile: what inputs and predictions looked like at conversion, as histograms to hold a fleet against."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from fleet_protocol import codec, limits

BINS = 16
"""Bins of each histogram (DESIGN.md §6)."""


class FeatureProfile(msgspec.Struct, frozen=True, kw_only=True):
    """One feature. `edges` are the 15 inner bin edges (quantiles of the reference data); `counts` the samples in each bin."""

    tensor: str
    index: Annotated[int, msgspec.Meta(ge=0)] | None
    """Position in the flattened tensor; None: all elements together."""
    mean: float
    std: float
    minimum: float
    maximum: float
    edges: tuple[float, ...]
    counts: tuple[int, ...]


class ReferenceProfile(msgspec.Struct, frozen=True, kw_only=True):
    """Features, predicted classes and top-1 confidence over the reference samples, computed on the preferred variant."""

    schema: Literal["edgeward.profile/1"] = "edgeward.profile/1"
    samples: Annotated[int, msgspec.Meta(ge=0)]
    variant: str
    features: tuple[FeatureProfile, ...]
    classes: dict[str, int] = {}
    """Predictions by class (arg-max index as text, or its label)."""
    confidence_counts: tuple[int, ...] = ()
    """Top-1 confidence in 16 equal bins over [0, 1]; empty where outputs are not classes."""


def decode_profile(content: bytes) -> ReferenceProfile:
    """Raises `ProtocolError`."""
    return codec.decode(content, ReferenceProfile, limit=limits.PROFILE_BYTES, what="reference profile")
