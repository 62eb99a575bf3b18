"""The parts of the parity page that say where a variant differs: layers, classes, samples, nodes. Pure: values in, HTML out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Final

from converters.report.parity import LayerReport, ParityReport, VariantReport, WorstSample

_ROWS: Final = 48
"""Layers that are drawn; a larger model's largest ones."""
_GOOD_DB: Final = 60.0
"""From here on noise is drawn as none."""


def layers(report: ParityReport) -> str:
    """A picture: each layer's weights, as given and as what ships first stores them."""
    if not report.layers:
        return ""
    first = report.variant(report.preferred)
    bytes_each = {"float32": 4, "float16-weights": 2}.get(first.precision if first else "float32", 1)
    drawn = sorted(range(len(report.layers)), key=lambda at: -math.prod(report.layers[at].given))[:_ROWS]
    most = max(math.prod(layer.given) for layer in report.layers)
    rows = "".join(_layer(row, report.layers[at], most, bytes_each) for row, at in enumerate(sorted(drawn)))
    left = len(report.layers) - len(drawn)
    note = f"<p><small>{left} smaller layers are not drawn.</small></p>" if left else ""
    before = sum(math.prod(layer.given) for layer in report.layers)
    after = sum(math.prod(layer.kept) for layer in report.layers)
    return (
        f"<h2>The layers, before and after</h2><p>{before:,} weights as given, {after:,} kept; {4 * before / 1000:,.1f} kB "
        f"as given, {bytes_each * after / 1000:,.1f} kB in {escape(report.preferred)}. Outlined: as given. Filled: what ships "
        "first. Lengths are to scale by their square root.</p>"
        f'<svg class="chart" viewBox="0 0 360 {32 * len(drawn) + 4}" role="img" '
        f'aria-label="Bytes of each layer before and after">{rows}</svg>{note}'
    )


def _layer(row: int, layer: LayerReport, most: int, bytes_each: int) -> str:
    y, wide = 32 * row + 3, 356
    given = wide * math.sqrt(math.prod(layer.given) / most)
    kept = wide * math.sqrt(math.prod(layer.kept) * bytes_each / 4 / most)
    shape = "×".join(map(str, layer.given))
    change = "" if layer.kept == layer.given else f" → {'×'.join(map(str, layer.kept))}"
    return (
        f'<text x="2" y="{y + 11}">{escape(layer.operator)} {shape}{change}</text>'
        f'<rect x="2" y="{y + 15}" width="{given:.1f}" height="10" fill="none" stroke="currentColor" stroke-opacity=".5"/>'
        f'<rect x="2" y="{y + 15}" width="{kept:.1f}" height="10" fill="var(--bar)"/>'
    )


def classes(report: ParityReport) -> str:
    """Per variant the classes that lost or won."""
    blocks = [_classes(variant, report) for variant in report.variants if variant.classes and variant.shipped]
    return "<h2>Classes that changed</h2>" + "".join(blocks) if blocks else ""


def _classes(variant: VariantReport, report: ParityReport) -> str:
    rows = "".join(
        f"<tr><td>{escape(_name(each.label, report))}</td><td>{each.samples}</td><td>{each.before:.3f}</td>"
        f"<td>{100 * (each.newly_right - each.newly_wrong) / each.samples:+.1f} points</td>"
        f'<td><span class="no">−{each.newly_wrong}</span> <span class="yes">+{each.newly_right}</span></td></tr>'
        for each in variant.classes[:_ROWS]
    )
    head = "<tr><th>Class</th><th>Samples</th><th>Float</th><th>Change</th><th>Turned wrong, right</th></tr>"
    return f'<h3>{escape(variant.name)}</h3><div class="wide"><table>{head}{rows}</table></div>'


def worst(report: ParityReport, pictures: Mapping[int, str]) -> str:
    """Per variant the samples that suffered most, to look at."""
    blocks = [
        f'<h3>{escape(variant.name)}</h3><div class="samples">'
        f"{''.join(_sample(each, report, pictures) for each in variant.worst)}</div>"
        for variant in report.variants
        if variant.worst and variant.shipped
    ]
    if not blocks:
        return ""
    told = "Those whose answer changed come first, then those with the most noise."
    return f"<h2>The samples that suffered most</h2><p>{told}</p>" + "".join(blocks)


def _sample(sample: WorstSample, report: ParityReport, pictures: Mapping[int, str]) -> str:
    lines = [f"<small>held-out {sample.index}, {sample.sqnr_db:.0f} dB</small>"]
    if sample.got is not None and sample.wanted is not None:
        changed = sample.got != sample.wanted
        answer = f"{_name(sample.wanted, report)} → {_name(sample.got, report)}" if changed else _name(sample.got, report)
        kind = "" if sample.label is None else ' class="yes"' if sample.got == sample.label else ' class="no"'
        lines.insert(0, f"<span{kind}>{escape(answer)}</span>")
        if sample.label is not None:
            lines.insert(1, f"<small>is {escape(_name(sample.label, report))}</small>")
    return f"<figure>{pictures.get(sample.index, '')}<figcaption>{'<br>'.join(lines)}</figcaption></figure>"


def nodes(report: ParityReport) -> str:
    """A picture per static variant: the nodes at which its noise comes in."""
    blocks = [_nodes(variant) for variant in report.variants if variant.nodes]
    return "<h2>Where noise comes in</h2>" + "".join(blocks) if blocks else ""


def _nodes(variant: VariantReport) -> str:
    rows = "".join(
        f'<text x="2" y="{32 * at + 13}">{escape(_short(each.node, each.operator))}</text>'
        f'<rect x="2" y="{32 * at + 17}" width="{300 * _noise(each.sqnr_db):.1f}" height="10" fill="var(--bar)"/>'
        f'<text x="308" y="{32 * at + 26}">{each.sqnr_db:.0f} dB</text>'
        for at, each in enumerate(variant.nodes)
    )
    return (
        f"<h3>{escape(variant.name)}</h3><p><small>Each node's output against float's; a long bar is much noise, and 6 dB less "
        f"are twice as much. What a layer got already noisy is not held against it.</small></p>"
        f'<svg class="chart" viewBox="0 0 360 {32 * len(variant.nodes) + 4}" role="img" aria-label="Noise by node">{rows}</svg>'
    )


def _noise(sqnr_db: float) -> float:
    return max(0.02, min(1.0, 1 - sqnr_db / _GOOD_DB))


def _short(node: str, operator: str) -> str:
    """A node's name as far as there is room: its end tells more than its beginning."""
    text = f"{operator} {node}"
    return text if len(text) <= 52 else f"{operator} …{node[-(50 - len(operator)) :]}"


def recipes(report: ParityReport) -> str:
    """What was done to get each variant."""
    rows = "".join(
        f'<tr><td>{escape(variant.name)}</td><td class="text">{escape(_choices(variant))}</td></tr>'
        for variant in report.variants
    )
    return f'<h3>Recipes</h3><div class="wide"><table>{rows}</table></div>'


def _choices(variant: VariantReport) -> str:
    return ", ".join(f"{name} {value}" for name, value in {**variant.recipe, **variant.session_options}.items())


def _name(label: int, report: ParityReport) -> str:
    return report.class_names[label] if label < len(report.class_names) else str(label)
