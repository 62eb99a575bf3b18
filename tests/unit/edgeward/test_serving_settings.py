"""What `edgeward serve` starts, in this process: checks, what is known of running a model here, experiments and shadows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import httpx
import pytest

from edgeward.serving import Service, Settings, running
from runtime import sources
from runtime.errors import ModelRejected
from runtime.tuning import results
from runtime.tuning.advice import AS_PUBLISHED
from runtime.tuning.record import Burst, Candidate, Row, Tuning
from tests.support import models


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    return models.linear_classifier(tmp_path / "digits.onnx")


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    return models.mlp_classifier(tmp_path / "faces.onnx")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def settings(*paths: Path, **more: Any) -> Settings:
    return Settings(models=paths, **{"port": 0, "cache": paths[0].parent / "cache", **more})


def tune(path: Path, cache: Path, *, typical_s: float = 0.004, provider: str = "cpu", gain: float = 9.0) -> None:
    chosen = Candidate(variant="onnx", threads=1, level="basic", provider=provider)
    row = Row(candidate=chosen, verdict="chosen", idle=Burst(p50_s=typical_s, p95_s=typical_s))
    tuning = Tuning(chosen=chosen, reason="It was the fastest.", rows=(row,), batch_gains={8: gain}, seconds=1.0)
    results.remember(cache, results.key_of(sources.find(path).identity.manifest), tuning)


def way(service: Service) -> tuple[str, int | None, int]:
    [advice] = service.ways.values()
    return advice.why, advice.source.threads, advice.source.batch


def is_aside(service: Service) -> bool:
    """Whether requests never run on the server's own thread."""
    [served] = service.models.active()
    return served.aside


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"shadow": Path("x")}, "It shadows one model"),
        ({"against": Path("x")}, "Two versions of one model are compared"),
        ({"pin": ("digits",)}, "Without --memory-budget no model makes room"),
        ({"pin": ("words",), "memory_budget": 1}, "'words' is not served here. Served: digits, faces."),
        ({"isolate": True, "batch": 2}, "Isolated models run one request at a time"),
        ({"grpc_address": "::1"}, "A port is wanted too"),
        ({"grpc_address": "unix:/x", "grpc_port": 1}, "A socket has no port"),
        ({"address": ""}, "It is empty. Give one such as 127"),
        ({"grpc_address": "", "grpc_port": 0}, "It is empty. Give one such as 127"),
        ({"against_share": 0.2}, "It says how --against works"),
        ({"salt": "autumn"}, "It says how --against works"),
        ({"shadow_share": 0.2}, "It says how --shadow works"),
        ({"shadow_cpu": 0.2}, "It says how --shadow works"),
    ],
)
def test_what_does_not_go_together_is_refused(digits: Path, faces: Path, more: dict[str, Any], said: str) -> None:
    with pytest.raises(click.BadParameter, match=said), running(settings(digits, faces, **more)):
        pass


def test_an_experiment_within_a_memory_budget_is_refused(digits: Path, faces: Path) -> None:
    with (
        pytest.raises(click.BadParameter, match="Both versions stay loaded"),
        running(settings(digits, against=faces, memory_budget=1)),
    ):
        pass


def test_an_experiment_of_models_with_other_inputs_is_refused(digits: Path, tmp_path: Path) -> None:
    other = models.two_inputs(tmp_path / "other.onnx")
    with (
        pytest.raises(ModelRejected, match="Versions that share requests take the same inputs"),
        running(settings(digits, against=other)),
    ):
        pass


def test_two_models_of_one_name_are_refused(digits: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    twin = models.linear_classifier(tmp_path / "other" / "digits.onnx")
    with pytest.raises(click.BadParameter, match="are both called digits"), running(settings(digits, twin)):
        pass


def test_a_model_of_which_nothing_is_known_runs_as_published(digits: Path) -> None:
    with running(settings(digits)) as service:
        assert way(service) == (AS_PUBLISHED, None, 1)


def test_a_tuned_model_runs_so_and_the_reason_says_it(digits: Path, cache: Path) -> None:
    tune(digits, cache)
    with running(settings(digits)) as service:
        assert way(service) == ("tuned: onnx · 1 thread · basic optimisation. It was the fastest.", 1, 8)
        assert is_aside(service)
        answer = httpx.post(f"{service.server.url}/v1/models/digits:predict", json={"instances": [[0.0] * 64]})
        assert answer.status_code == 200


def test_a_quick_model_is_not_taken_off_the_servers_own_thread_to_be_merged(digits: Path, cache: Path) -> None:
    tune(digits, cache, typical_s=0.0001)
    with running(settings(digits)) as service:
        assert way(service)[1:] == (1, 1)
        assert not is_aside(service)


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ({"threads": 2}, (2, 8)),
        ({"batch": 3}, (1, 3)),
        ({"isolate": True}, (1, 1)),
        ({"tuned": False}, (None, 1)),
        ({"provider": "cpu"}, (None, 1)),
        ({"tuned": False, "batch": 4, "threads": 1}, (1, 4)),
    ],
)
def test_what_is_asked_for_goes_before_what_was_tuned(
    digits: Path, cache: Path, more: dict[str, Any], wanted: tuple[int | None, int]
) -> None:
    tune(digits, cache)
    with running(settings(digits, **more)) as service:
        assert way(service)[1:] == wanted


@pytest.mark.parametrize("budget", [None, 500_000_000])
def test_a_way_that_does_not_work_any_more_is_no_outage(digits: Path, cache: Path, budget: int | None) -> None:
    tune(digits, cache, provider="cuda")
    with running(settings(digits, memory_budget=budget)) as service:
        answer = httpx.post(f"{service.server.url}/v1/models/digits:predict", json={"instances": [[0.0] * 64]}, timeout=60)
        assert answer.status_code == 200
        assert way(service)[0].startswith("as published, since the way that is known on this device does not work: ")


def test_a_model_that_loads_in_no_way_is_refused(digits: Path, cache: Path) -> None:
    digits.write_bytes(b"no model")
    tune(digits, cache)
    with pytest.raises(ModelRejected), running(settings(digits)):
        pass


@pytest.mark.parametrize(("pin", "status"), [((), 200), (("large",), 503)])
def test_a_pinned_model_never_makes_room(tmp_path: Path, pin: tuple[str, ...], status: int) -> None:
    large, huge = (models.hungry(tmp_path / f"{name}.onnx", megabytes=32) for name in ("large", "huge"))
    with running(settings(large, huge, memory_budget=150_000_000, pin=pin)) as service:  # each takes some 105 MB
        assert httpx.get(f"{service.server.url}/v2/models/large", timeout=60).status_code == 200
        assert httpx.get(f"{service.server.url}/v2/models/huge", timeout=60).status_code == status


def test_the_other_version_of_an_experiment_answers_under_the_first_ones_name(digits: Path, faces: Path) -> None:
    with running(settings(digits, against=faces, against_share=0.9)) as service:
        versions = [identity.version for identity in service.models.identities()]
        assert [identity.model for identity in service.models.identities()] == ["digits", "digits"]
        assert versions[0] == "0.0.0"
        assert versions[1].startswith("0.0.0-")
        assert set(service.ways) == set(service.models.identities())


def test_a_shadow_runs_beside_until_the_end(digits: Path, faces: Path) -> None:
    with running(settings(digits, shadow=faces, shadow_share=1.0)) as service:
        assert service.models.observer("digits") is not None
    assert service.models.observer("digits") is None
