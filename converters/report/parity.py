"""The parity report: how every variant that was tried compares with the float model, in one value. Pure.

It is a part of the signed bundle, so it holds only what the same inputs and seed give again. Seconds do not belong to that:
they stand in `Timing`, beside the report, and only the verdict "slower than float" enters here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Literal

import msgspec

from fleet_protocol import codec
from fleet_protocol.digests import Digest
from fleet_protocol.manifest import Tolerance

PARITY_FILE: Final = "parity.json"
PAGE_FILE: Final = "parity.html"
TIMING_FILE: Final = "timing.json"

REPORT_BYTES: Final = 16 * 1024 * 1024

Task = Literal["classes", "values"]
"""Whether the first output's largest element is a class, or the outputs are numbers as such."""


class AccuracyReport(msgspec.Struct, frozen=True, kw_only=True):
    """Share of held-out samples that were classified right, with its 95 % interval, and the change against float."""

    value: float
    low: float
    high: float
    change: float
    """Accuracy minus float's, on the same samples."""
    change_low: float
    change_high: float
    newly_wrong: int
    newly_right: int


class SaturationReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a processor that adds 8-bit products in 16 bits (AVX2 without VNNI) would answer, as emulated."""

    layers: int
    """Integer layers in which a sum can be cut off; with none of them, nothing else is left to check."""
    samples: int = 0
    agreement: float | None = None
    """Share of those held-out samples with float's class, on such a processor."""
    accuracy: float | None = None
    sqnr_db: float | None = None


class ScoreReport(msgspec.Struct, frozen=True, kw_only=True):
    """The held-out samples by another measure than accuracy, and the change against float; more is better."""

    metric: str
    value: float
    change: float
    change_low: float | None = None
    change_high: float | None = None
    """The change's 95 % interval on the same samples, where the measure has one."""


class ClassChange(msgspec.Struct, frozen=True, kw_only=True):
    """One class of which some sample turned right or wrong. `before` is float's accuracy on its samples."""

    label: int
    samples: int
    before: float
    newly_wrong: int
    newly_right: int


class WorstSample(msgspec.Struct, frozen=True, kw_only=True):
    """A sample that suffered. `index` is its place among the held-out ones, which the seed tells; classes where known."""

    index: int
    label: int | None
    wanted: int | None
    """What float answers."""
    got: int | None
    sqnr_db: float


class NodeReport(msgspec.Struct, frozen=True, kw_only=True):
    """A node at which noise comes in, and how its output compares with float's."""

    node: str
    operator: str
    sqnr_db: float


class LayerReport(msgspec.Struct, frozen=True, kw_only=True):
    """One layer's weights, as given and after what could go without changing an answer."""

    operator: str
    given: tuple[int, ...]
    kept: tuple[int, ...]


class VariantReport(msgspec.Struct, frozen=True, kw_only=True):
    """One variant that was tried. Where `shipped` is false, `reason` says why."""

    name: str
    precision: str
    shipped: bool
    reason: str
    recipe: dict[str, str]
    session_options: dict[str, str]
    size: int | None = None
    size_ratio: float | None = None
    """Its size over that of the given model."""
    slower_than_float: bool | None = None
    """On the machine that converted; None where not measured, or where a person chose the order."""
    accuracy: AccuracyReport | None = None
    agreement: float | None = None
    """Share of held-out samples with float's class."""
    agreement_low: float | None = None
    agreement_high: float | None = None
    """Its 95 % interval."""
    score: ScoreReport | None = None
    doubt: str = ""
    """Why it may lose more than the budget elsewhere; empty where that is unlikely."""
    classes: tuple[ClassChange, ...] = ()
    """The classes that changed, the one that lost most first."""
    worst: tuple[WorstSample, ...] = ()
    """The samples that suffered most."""
    nodes: tuple[NodeReport, ...] = ()
    """Where the noise comes in, for static int8: the worst nodes first."""
    sqnr_db: float | None = None
    saturation: SaturationReport | None = None
    """For static int8."""
    tolerance: Tolerance | None = None
    """What a device's gate allows; from the golden samples."""


class Samples(msgspec.Struct, frozen=True, kw_only=True):
    """How many samples each part had; no sample is in two."""

    calibration: int
    golden: int
    held_out: int
    labelled: bool


class ParityReport(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a person needs to trust a bundle or not. `warnings` come first, worst first."""

    schema: Literal["edgeward.parity/1"] = "edgeward.parity/1"
    model: str
    version: str
    warnings: tuple[str, ...]
    preferred: str
    preferred_because: str
    task: Task
    budget: float
    """Largest share of accuracy (labels) or agreement (no labels) that a variant may lose."""
    samples: Samples
    target: str = "any"
    """The processors that the bundle is for."""
    seed: int
    source: Digest
    data: Digest
    tools: dict[str, str]
    lossless: str = ""
    """What was taken away from the model without changing its answers, beyond names and notes; empty where nothing was."""
    trained: tuple[str, ...] = ()
    """What was trained from the given model, a sentence each."""
    notes: tuple[str, ...] = ()
    """What people may want to know and is no bad news, a sentence each."""
    class_names: tuple[str, ...] = ()
    layers: tuple[LayerReport, ...] = ()
    """Each layer's weights before and after; empty where they do not match one to one."""
    variants: tuple[VariantReport, ...]
    """Shipped ones in order of preference, then those left out."""

    def variant(self, name: str) -> VariantReport | None:
        """The report on the variant of that name, or None."""
        return next((variant for variant in self.variants if variant.name == name), None)


class VariantTiming(msgspec.Struct, frozen=True, kw_only=True):
    """Latency of one single-sample call in many interleaved rounds.

    Seconds are the best round's. The ratio to the given model's is the median of the rounds' own, with its 95 % interval.
    """

    seconds: float
    ratio_to_float: float
    ratio_low: float | None = None
    ratio_high: float | None = None

    def describe(self) -> str:
        """For people, such as `0.98 × float (0.97 to 1.01)`."""
        sure = "" if self.ratio_low is None or self.ratio_high is None else f" ({self.ratio_low:.2f} to {self.ratio_high:.2f})"
        return f"{self.ratio_to_float:.2f} × float{sure}"


class SearchTrial(msgspec.Struct, frozen=True, kw_only=True):
    """One recipe that a search tried, on samples of its own."""

    recipe: dict[str, str]
    loss: float
    sqnr_db: float
    latency: float
    """Over the given model's."""
    size: int
    fault: str
    chosen: bool


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured on the machine that converted. Not a part of the signed bundle: another run measures other seconds."""

    schema: Literal["edgeward.timing/1"] = "edgeward.timing/1"
    engine: str
    machine: str
    variants: dict[str, VariantTiming]
    search: tuple[SearchTrial, ...] = ()
    """What a search tried, in order; how far it came depends on the machine."""


def encode_report(report: ParityReport) -> bytes:
    """The report's one byte form."""
    return codec.encode_readable(report)


def decode_report(content: bytes) -> ParityReport:
    """Raises `ProtocolError`."""
    return codec.decode(content, ParityReport, limit=REPORT_BYTES, what="parity report")


def decode_timing(content: bytes) -> Timing:
    """Raises `ProtocolError`."""
    return codec.decode(content, Timing, limit=REPORT_BYTES, what="timing")


class Finding(msgspec.Struct, frozen=True):
    """What `warnings_about` looks at."""

    float_accuracy: Annotated[float, msgspec.Meta(ge=0, le=1)] | None
    majority: float | None
    """Accuracy of always answering the most common label."""
    held_out: int
    budget: float
    task: Task
    left_out: Sequence[tuple[str, str]]
    int8_shipped: bool
    metric: str = ""
    """What else the samples were judged by; empty: accuracy, or nearness to float."""
    constant: bool = False
    """Whether the float model answers the same to every held-out sample."""
    slower: bool = False
    """Whether all that ships, float too, was surely slower than the given model."""


def warnings_about(finding: Finding) -> tuple[str, ...]:
    """Bad news for people, worst first."""
    found = []
    accuracy, majority = finding.float_accuracy, finding.majority
    if accuracy is not None and majority is not None and (accuracy < 0.5 or accuracy <= majority):
        found.append(
            f"The float model itself is right on only {accuracy:.1%} of the held-out samples (always answering the most common "
            f"label: {majority:.1%}). It is probably broken, or the labels do not belong to it."
        )
    if finding.constant:
        found.append(
            f"The float model answers the same to all {finding.held_out} held-out samples, so that holding variants against it "
            "says little. The samples are all alike, or the model does not look at them."
        )
    if not finding.int8_shipped:
        found.append("No int8 variant stayed within the budget: the bundle carries float only.")
    if finding.slower:
        found.append(
            "Every variant within the budget was slower than the given model on the machine that converted, by more than 1 % "
            "and more than the measurement's noise. Convert again on a quiet machine, or look at timing.json."
        )
    found += [f"{name} was left out: it {reason}." for name, reason in finding.left_out]
    if accuracy is None and not finding.metric:
        found.append(
            "The data has no labels, so accuracy is unknown: variants were held against the float model's answers only."
        )
    if finding.task == "classes" and finding.held_out * finding.budget < 1:
        found.append(
            f"One of {finding.held_out} held-out samples weighs {1 / finding.held_out:.1%}, more than the budget of "
            f"{finding.budget:.1%}: the comparison is coarse. Give more data."
        )
    return tuple(found)
