"""The report: bad news first, and a page that stands alone."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import msgspec
import pytest

from converters.report.parity import (
    AccuracyReport,
    Finding,
    ParityReport,
    Samples,
    Timing,
    VariantReport,
    VariantTiming,
    decode_report,
    encode_report,
    warnings_about,
)
from converters.report.parity_page import render
from fleet_protocol.digests import digest_of

FINE = Finding(float_accuracy=0.97, majority=0.12, held_out=500, budget=0.005, task="classes", left_out=[], int8_shipped=True)


def report() -> ParityReport:
    accuracy = AccuracyReport(
        value=0.95, low=0.93, high=0.97, change=-0.002, change_low=-0.01, change_high=0.006, newly_wrong=2, newly_right=1
    )
    kept = VariantReport(
        name="int8-static", precision="int8-static", shipped=True, reason="within the budget", recipe={}, session_options={},
        size=46_000, size_ratio=0.3, slower_than_float=False, accuracy=accuracy, agreement=0.99, sqnr_db=40.0,
    )  # fmt: skip
    lost = VariantReport(
        name="int8-weights", precision="int8-weights", shipped=False, reason="answers <NaN>", recipe={}, session_options={}
    )
    return ParityReport(
        model="digits", version="1.0.0", warnings=("it <b>broke</b>",), preferred="int8-static", preferred_because="It is.",
        task="classes", budget=0.005, samples=Samples(calibration=300, golden=64, held_out=536, labelled=True), seed=0,
        source=digest_of(b"s"), data=digest_of(b"d"), tools={"onnx": "1"}, variants=(kept, lost),
    )  # fmt: skip


TIMING = Timing(
    engine="onnxruntime", machine="x86_64", variants={"int8-static": VariantTiming(seconds=5e-5, ratio_to_float=0.9)}
)


def test_a_latency_is_told_with_its_interval_where_it_has_one() -> None:
    told = VariantTiming(seconds=1e-3, ratio_to_float=1.016, ratio_low=0.994, ratio_high=1.031)
    assert told.describe() == "1.02 × float (0.99 to 1.03)"
    assert TIMING.variants["int8-static"].describe() == "0.90 × float"


def test_that_nothing_is_as_quick_as_the_given_model_is_bad_news() -> None:
    (found,) = warnings_about(msgspec.structs.replace(FINE, slower=True))
    assert "slower than the given model" in found


def test_good_news_needs_no_warning() -> None:
    assert warnings_about(FINE) == ()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"float_accuracy": 0.07}, "right on only 7.0%"),
        ({"float_accuracy": 0.60, "majority": 0.65}, "most common label: 65.0%"),
        ({"int8_shipped": False}, "carries float only"),
        ({"left_out": [("int8-static", "loses 3 points")]}, "int8-static was left out: it loses 3 points."),
        ({"float_accuracy": None, "majority": None}, "accuracy is unknown"),
        ({"held_out": 50}, "more than the budget"),
        ({"constant": True}, "answers the same to all"),
    ],
)
def test_each_kind_of_bad_news_is_said(change: dict[str, object], match: str) -> None:
    found = warnings_about(msgspec.structs.replace(FINE, **change))
    assert len(found) == 1
    assert match in found[0]


def test_a_broken_float_model_comes_before_all_else() -> None:
    finding = msgspec.structs.replace(FINE, float_accuracy=0.1, int8_shipped=False, held_out=20)
    assert "float model itself" in warnings_about(finding)[0]


def test_the_report_survives_its_file() -> None:
    assert decode_report(encode_report(report())) == report()


def test_the_page_stands_alone_and_runs_nothing() -> None:
    page = render(report(), TIMING)
    assert not re.search(r"https?://|<script|<link|<img|@import|url\(", page)
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page


def test_the_page_escapes_what_models_and_tools_say() -> None:
    page = render(report(), TIMING)
    assert "it &lt;b&gt;broke&lt;/b&gt;" in page
    assert "answers &lt;NaN&gt;" in page


def test_bad_news_stands_before_the_figures() -> None:
    page = render(report(), TIMING)
    assert page.index("broke") < page.index("Every variant that was tried")


def test_the_page_does_without_timing_and_without_accuracy() -> None:
    bare = msgspec.structs.replace(report(), variants=(report().variants[1],), warnings=())
    assert "No bad news" in render(bare, None)


class Nesting(HTMLParser):
    """Fails where a tag is closed that was not opened last."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "br"):
            self.opened.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        pass


def test_every_tag_of_the_page_is_closed_in_its_turn() -> None:
    parser = Nesting()
    parser.feed(render(report(), TIMING))
    assert parser.opened == []
