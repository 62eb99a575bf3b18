"""Says how two releases differ: tensor specs, variants, recipes, lineage, operators, and whether they answer alike.

A release is a bundle's directory or a model file that the runtime takes. Nothing is written; golden inputs come from a bundle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import onnx
from google.protobuf.message import DecodeError

import runtime
from converters.errors import SourceRejected
from fleet_io.bundle_directory import Bundle, open_bundle
from runtime import golden, parity

T = TypeVar("T")


class VariantDiff(msgspec.Struct, frozen=True, kw_only=True):
    """One variant on both sides; None where a side has none of that name. Sizes are bytes."""

    name: str
    sizes: tuple[int | None, int | None]
    accuracies: tuple[float | None, float | None]
    recipe: dict[str, tuple[str, str]]
    """What its recipe says otherwise; empty text where a side says nothing."""


class Diff(msgspec.Struct, frozen=True, kw_only=True):
    """Two releases side by side. Every mapping holds only what differs."""

    names: tuple[str, str]
    inputs: tuple[list[str], list[str]]
    outputs: tuple[list[str], list[str]]
    variants: list[VariantDiff]
    lineage: dict[str, tuple[str, str]]
    operators: dict[str, tuple[int, int]]
    agreement: float | None
    """Share of golden samples that get the same class from both; None where they tell no classes or cannot be compared."""
    sqnr_db: float | None
    samples: int


@dataclass(frozen=True)
class _Side:
    name: str
    model: Path
    options: Mapping[str, str]
    bundle: Bundle | None


def compare(first: Path, second: Path) -> Diff:
    """Compare two bundles or models. Raises `SourceRejected`, or `BundleDamaged`."""
    sides = _side(first), _side(second)
    models = [_load(side) for side in sides]
    try:
        agreement, sqnr_db, samples = _answers(sides, models[0], models[1])
        return Diff(
            names=(sides[0].name, sides[1].name),
            inputs=([spec.describe() for spec in models[0].inputs], [spec.describe() for spec in models[1].inputs]),
            outputs=([spec.describe() for spec in models[0].outputs], [spec.describe() for spec in models[1].outputs]),
            variants=_variants(*sides),
            lineage=_differing(_lineage(sides[0]), _lineage(sides[1]), ""),
            operators=_differing(_operators(sides[0]), _operators(sides[1]), 0),
            agreement=agreement,
            sqnr_db=sqnr_db,
            samples=samples,
        )
    finally:
        for model in models:
            model.close()


def _side(path: Path) -> _Side:
    if not path.exists():
        raise SourceRejected(f"{path} does not exist. Give a bundle's directory, or a model file.")
    if not path.is_dir():
        return _Side(path.name, path, {}, None)
    bundle = open_bundle(path)
    preferred = bundle.manifest.variants[0]
    name = f"{bundle.manifest.model} {bundle.manifest.version}"
    return _Side(name, bundle.path(preferred.file), preferred.session_options, bundle)


def _load(side: _Side) -> runtime.Model:
    try:
        return runtime.load(side.model, session_options=side.options, threads=1)
    except runtime.ModelRejected as error:
        raise SourceRejected(f"{side.name} cannot be compared: {error}") from error


def _answers(sides: tuple[_Side, _Side], one: runtime.Model, other: runtime.Model) -> tuple[float | None, float | None, int]:
    """Agreement and noise of the preferred variants' first outputs on the golden inputs of the side that has some."""
    bundle = sides[1].bundle or sides[0].bundle
    if bundle is None or not one.outputs or not other.outputs:
        return None, None, 0
    kept = golden.read(bundle.path(bundle.manifest.golden.file))
    try:
        before, after = (model(kept.inputs)[model.outputs[0].name] for model in (one, other))
    except (runtime.InvalidInput, runtime.InferenceFailed):
        return None, None, 0
    if before.shape != after.shape:
        return None, None, 0
    floats = before.dtype.kind == after.dtype.kind == "f"
    return parity.agreement(before, after), parity.sqnr_db(before, after) if floats else None, len(before)


def _variants(first: _Side, second: _Side) -> list[VariantDiff]:
    named = [
        {} if side.bundle is None else {each.name: each for each in side.bundle.manifest.variants} for side in (first, second)
    ]
    found = []
    for name in dict.fromkeys([*named[0], *named[1]]):
        pair = named[0].get(name), named[1].get(name)
        sizes = tuple(None if each is None else each.file.size for each in pair)
        accuracies = tuple(None if each is None or each.accuracy is None else each.accuracy.value for each in pair)
        recipes = [{} if each is None else dict(each.recipe) for each in pair]
        changed = _differing(recipes[0], recipes[1], "") if None not in pair else {}
        found.append(
            VariantDiff(name=name, sizes=(sizes[0], sizes[1]), accuracies=(accuracies[0], accuracies[1]), recipe=changed)
        )
    return found


def _lineage(side: _Side) -> dict[str, str]:
    if side.bundle is None:
        return {}
    lineage = side.bundle.manifest.lineage
    return {"source": lineage.source, "data": lineage.data, "seed": str(lineage.seed), **lineage.tools}


def _operators(side: _Side) -> dict[str, int]:
    """How often each operator stands in the preferred variant, where it is ONNX."""
    try:
        graph = onnx.load_model(str(side.model), load_external_data=False).graph
    except (DecodeError, OSError):
        return {}
    return dict(Counter(node.op_type for node in graph.node))


def _differing(first: Mapping[str, T], second: Mapping[str, T], nothing: T) -> dict[str, tuple[T, T]]:
    pairs = {name: (first.get(name, nothing), second.get(name, nothing)) for name in sorted({*first, *second})}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
