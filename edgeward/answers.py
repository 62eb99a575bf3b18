"""How `edgeward predict` shows an answer: as tables to a person, as one document to a pipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.markup import escape

from edgeward import terminal
from runtime import Inference, Model
from runtime.hosting.usage import looks_like_scores
from runtime.processing import Classes, Detections, Result
from runtime.sources import Source

_SHOWN_CLASSES = 3
_SHOWN_SAMPLES = 20

Results = Sequence[dict[str, Result]]
"""What the declared processing made of each sample; empty where nothing is declared."""


def document(source: Source, opened: Model, answer: Inference, results: Results) -> dict[str, Any]:
    """The answer as one document."""
    made: dict[str, Any] = {
        "model": answer.identity.model,
        "version": answer.identity.version,
        "variant": answer.identity.variant,
        "engine": opened.engine,
        "choice": opened.choice,
        "finite": answer.finite,
        "outputs": {name: array.tolist() for name, array in answer.outputs.items()},
        "predictions": [ranked[0] for ranked in _ranked(source, opened, answer)],
    }
    return {**made, "results": results} if results else made


def show(source: Source, opened: Model, answer: Inference, results: Results) -> None:
    """The answer as tables: declared results; else the best classes, and the numbers of what are no class scores."""
    identity = answer.identity
    terminal.out.print(f"[bold]{identity.model} {identity.version}[/] ({identity.variant}, {opened.engine})")
    ranked = _ranked(source, opened, answer)
    if results:
        _show_results(results)
    elif ranked:
        columns = ("sample", *("first", "second", "third")[: len(ranked[0])])
        rows = [[at, *(f"{each['class']}  {each['score']:.4f}" for each in best)] for at, best in enumerate(ranked)]
        _print_table(columns, rows)
    others = {} if results else {spec.name: answer.outputs[spec.name] for spec in opened.outputs[1 if ranked else 0 :]}
    if others:
        values = [(name, each.dtype.name, list(each.shape), escape(np.array2string(each))) for name, each in others.items()]
        terminal.out.print(terminal.table("", ("output", "type", "shape", "values"), values))
    if not answer.finite:
        terminal.err.print("[bold red]The answer holds NaN or infinity.[/]")


def _show_results(results: Results) -> None:
    rows = [(at, name, *row) for at, each in enumerate(results) for name, result in each.items() for row in _rows(result)]
    _print_table(("sample", "result", "label", "score", "where"), rows)


def _rows(result: Result) -> list[tuple[str, str, str]]:
    match result:
        case Classes():
            return [(escape(name), f"{score:.4f}", "") for name, score in zip(result.labels, result.scores, strict=True)]
        case Detections():
            found = zip(result.labels, result.scores, result.boxes, strict=True)
            return [(escape(name), f"{score:.4f}", ", ".join(f"{x:.0f}" for x in box)) for name, score, box in found] or [
                ("nothing", "", "")
            ]
    return [("", escape(str(result)[:80]), "")]


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    terminal.out.print(terminal.table("", columns, rows[:_SHOWN_SAMPLES]))
    if len(rows) > _SHOWN_SAMPLES:
        what = "samples" if columns[1] == "first" else "rows"
        terminal.out.print(f"… and {len(rows) - _SHOWN_SAMPLES} {what} more; --json shows all.")


def _ranked(source: Source, opened: Model, answer: Inference) -> list[list[dict[str, Any]]]:
    """The best classes of each sample, best first; empty where the outputs are not class scores."""
    if not answer.finite or not opened.outputs or not looks_like_scores(opened.outputs[0]):
        return []
    rows = answer.outputs[opened.outputs[0].name]
    return [
        [{"class": _label(source, int(at)), "score": float(row[at])} for at in np.argsort(row)[::-1][:_SHOWN_CLASSES]]
        for row in rows
    ]


def _label(source: Source, index: int) -> str:
    return source.labels[index] if index < len(source.labels) else str(index)
