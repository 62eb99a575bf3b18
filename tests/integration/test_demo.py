"""The demo is what a newcomer sees first: it runs to its end, and what it says is true."""

from __future__ import annotations

import json
from typing import Any

import psutil
import pytest

from tests.support.central_side import edgeward

DEMO_TIMEOUT_S = 300.0


@pytest.fixture(scope="session")
def performance(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """What it printed, and the facts that it wrote; it left no process and no other file."""
    stage = tmp_path_factory.mktemp("stage")
    target = stage / "facts.json"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TMPDIR", str(stage))
        done = edgeward("demo", "--json", str(target), timeout_s=DEMO_TIMEOUT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    facts: dict[str, Any] = json.loads(target.read_text())
    left = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    assert [line for line in left if str(stage) in line] == []
    assert [path.name for path in stage.iterdir()] == ["facts.json"]
    return done.stdout, facts


@pytest.mark.demo
@pytest.mark.timeout(DEMO_TIMEOUT_S)
@pytest.mark.xdist_group("demo")
class TestTheDemo:
    def test_every_request_was_answered_while_versions_changed(self, performance: tuple[str, dict[str, Any]]) -> None:
        requests = performance[1]["requests"]
        assert requests["failed"] == 0
        assert requests["answered"] > 300
        answers = performance[1]["models"]["digits"]
        assert answers["1.0.0"]["answered"] > 0
        assert answers["1.1.0"]["answered"] > 0

    def test_the_broken_release_answered_nothing_and_every_device_refused_it(
        self, performance: tuple[str, dict[str, Any]]
    ) -> None:
        broken = performance[1]["models"]["digits"]["1.2.0"]
        assert (broken["outcome"], broken["answered"]) == ("failed", 0)
        for device in performance[1]["devices"]:
            [model] = device["models"]
            assert (model["running"], model["wanted"], model["state"]) == ("1.1.0", "1.1.0", "committed")
            assert [refusal["version"] for refusal in model["refused"]] == ["1.2.0"]
            assert model["refused"][0]["phase"] == "gating"

    def test_the_answers_of_good_releases_were_right(self, performance: tuple[str, dict[str, Any]]) -> None:
        facts = performance[1]
        for version in ("1.0.0", "1.1.0"):
            assert facts["models"]["digits"][version]["right"] > 0.9
        assert facts["accuracy"]["int8"] > facts["accuracy"]["float"] - 0.01 > 0.9

    def test_int8_is_about_a_quarter_of_float_and_less_than_all_of_it_went_over_the_wire_thrice(
        self, performance: tuple[str, dict[str, Any]]
    ) -> None:
        sizes = performance[1]["sizes"]
        assert min(sizes.values()) < 0.4 * sizes["float32"]
        assert performance[1]["bytes_on_wire"] > 3 * min(sizes.values())

    def test_it_ends_with_the_fleet_in_plain_words(self, performance: tuple[str, dict[str, Any]]) -> None:
        text = performance[0]
        for said in ("shelf-1", "shelf-2", "shelf-3", "0 failed", "Bytes on the wire", "Accuracy on held-out digits"):
            assert said in text
