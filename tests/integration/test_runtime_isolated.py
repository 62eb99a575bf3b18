"""Models in processes of their own: real processes that really crash, hang and lose their files."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from onnx import TensorProto

from runtime import InferenceFailed, InvalidInput, ModelHost, ModelRejected, tensor_file
from runtime.errors import ModelUnwell
from runtime.hosting.admission import Limits
from runtime.hosting.isolated import InChildren, IsolatedEngine, load_isolated
from runtime.hosting.pool import ModelPool
from runtime.sources import find
from tests.support import models
from tests.support.waiting import until

PIXELS = models.samples(4)[0]
WAIT_S = 20.0


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[IsolatedEngine]:
    made = IsolatedEngine(find(models.linear_classifier(tmp_path / "digits.onnx")), threads=1, hang_s=WAIT_S)
    yield made
    made.close()


def test_what_is_exchanged_lies_nowhere_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name outlives a process that is killed, and its file takes memory until the machine starts again."""
    monkeypatch.setattr(tensor_file, "MEMORY_FILES", tmp_path / "memory")
    tensor_file.MEMORY_FILES.mkdir()
    engine = IsolatedEngine(find(models.linear_classifier(tmp_path / "digits.onnx")), threads=1, hang_s=WAIT_S)
    assert answers_well(engine)
    os.kill(pid_of(engine), signal.SIGKILL)
    with pytest.raises(InferenceFailed):
        engine.run({"pixels": PIXELS})
    assert answers_well(engine)
    assert list(tensor_file.MEMORY_FILES.iterdir()) == []
    engine.close()


def pid_of(engine: IsolatedEngine) -> int:
    assert engine.pid is not None
    return engine.pid


def answers_well(engine: IsolatedEngine) -> bool:
    [scores] = engine.run({"pixels": PIXELS})
    return bool(np.allclose(scores, models.scores(PIXELS), atol=1e-5))


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED, "the process is stopped")


def test_it_answers_what_the_model_answers_in_this_process(tmp_path: Path) -> None:
    source = find(models.linear_classifier(tmp_path / "digits.onnx"))
    with_host, isolated = ModelHost(), load_isolated(source, threads=1)
    assert isolated.engine.endswith(", isolated")
    with_host.activate(source.identity, isolated)
    answer = with_host.infer("digits", {"pixels": PIXELS})
    np.testing.assert_array_equal(answer.outputs["scores"], source.load(threads=1)({"pixels": PIXELS})["scores"])
    answer.outputs["scores"][:] = 0  # its own memory
    with pytest.raises(InvalidInput, match="wanted pixels"):
        isolated({"pixels": PIXELS[:, :3]})
    with_host.deactivate("digits")


def test_a_crash_between_requests_is_the_error_of_one_request_and_the_next_one_works(engine: IsolatedEngine) -> None:
    assert answers_well(engine)
    first = pid_of(engine)
    os.kill(first, signal.SIGSEGV)
    with pytest.raises(
        InferenceFailed, match=r"digits lost its process: .* crashed \(Segmentation fault\)\. It is started again"
    ):
        engine.run({"pixels": PIXELS})
    assert answers_well(engine)
    assert pid_of(engine) != first


def test_a_crash_in_the_middle_of_a_request_is_its_error_and_the_next_one_works(engine: IsolatedEngine) -> None:
    pid = pid_of(engine)
    stop(pid)
    with ThreadPoolExecutor() as threads:
        asked = threads.submit(engine.run, {"pixels": PIXELS})
        until(engine._turn.locked, "the request is under way")
        os.kill(pid, signal.SIGSEGV)
        os.kill(pid, signal.SIGCONT)
        assert isinstance(asked.exception(WAIT_S), InferenceFailed)
    assert answers_well(engine)


def test_a_hang_is_ended_and_the_next_request_works(tmp_path: Path) -> None:
    source = find(models.linear_classifier(tmp_path / "digits.onnx"))
    engine = IsolatedEngine(source, threads=1, hang_s=0.1)
    pid = pid_of(engine)
    stop(pid)
    with pytest.raises(InferenceFailed, match=r"did not answer within 0\.1 s and was stopped"):
        engine.run({"pixels": PIXELS})
    assert not psutil.pid_exists(pid)
    engine._hang_s = WAIT_S  # a loaded machine may take longer than the hang that is tried here
    assert answers_well(engine)
    engine.close()


def test_a_model_that_keeps_crashing_rests_and_says_so_at_once(engine: IsolatedEngine) -> None:
    for _ in range(2):
        assert answers_well(engine)
        os.kill(pid_of(engine), signal.SIGKILL)
        with pytest.raises(InferenceFailed, match="Killed"):
            engine.run({"pixels": PIXELS})
    with pytest.raises(ModelUnwell, match=r"digits lost its process 2 times in the last minute, and rests for 0\.25 s"):
        engine.run({"pixels": PIXELS})
    until(lambda: answered(engine), "it has rested")


def answered(engine: IsolatedEngine) -> bool:
    try:
        return answers_well(engine)
    except ModelUnwell:
        return False


def test_a_model_whose_file_is_gone_answers_until_its_process_dies(tmp_path: Path) -> None:
    path = models.linear_classifier(tmp_path / "digits.onnx")
    engine = IsolatedEngine(find(path), threads=1)
    path.unlink()
    assert answers_well(engine)
    os.kill(pid_of(engine), signal.SIGKILL)
    with pytest.raises(InferenceFailed):
        engine.run({"pixels": PIXELS})
    with pytest.raises(ModelUnwell, match=r"lost its process and cannot be started again: .*digits\.onnx cannot be read"):
        engine.run({"pixels": PIXELS})
    engine.close()


def test_a_file_that_is_no_model_is_refused_and_leaves_no_process(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no model")
    before = len(psutil.Process().children())
    with pytest.raises(ModelRejected, match="cannot be loaded in a process of its own"):
        IsolatedEngine(find(path))
    assert len(psutil.Process().children()) == before


def test_texts_travel_too(tmp_path: Path) -> None:
    model = load_isolated(find(models.identity(tmp_path / "echo.onnx", TensorProto.STRING, ("batch",))), threads=1)
    texts = np.array(["", "a", "ä€"], object)
    assert model({"x": texts})["y"].tolist() == texts.tolist()
    model.close()


def test_a_closed_model_leaves_no_process(engine: IsolatedEngine) -> None:
    pid = pid_of(engine)
    engine.close()
    assert not psutil.pid_exists(pid)


def test_a_pool_of_isolated_models_counts_what_their_processes_take(tmp_path: Path) -> None:
    small, large = models.linear_classifier(tmp_path / "small.onnx"), tmp_path / "large.onnx"
    models.constant(large, 1.0, features=4096, classes=2048)  # 32 MiB
    pool = ModelPool(budget_bytes=2**40, loader=InChildren(threads=1), limits=Limits(1, aside=True))
    for path in (small, large):
        pool.offer(find(path))
    assert pool.infer("small", {"pixels": PIXELS}).finite
    assert pool.infer("large", {"pixels": np.zeros((1, 4096), np.float32)}).finite
    taken = {each.identity.model: each.memory_bytes for each in pool.standings()}
    assert 10e6 < taken["small"] < taken["large"] - 20e6
    pool.close()
    assert not psutil.Process().children()


def test_requests_take_turns_and_none_gets_another_ones_answer(engine: IsolatedEngine) -> None:
    def ask(number: int) -> bool:
        pixels = models.samples(1 + number % 5, seed=number)[0]
        [scores] = engine.run({"pixels": pixels})
        return bool(np.allclose(scores, models.scores(pixels), atol=1e-5))

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, range(100)))
    assert threading.active_count() < 50
