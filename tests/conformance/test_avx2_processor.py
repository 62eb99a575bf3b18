"""What the saturation check predicts, held against the instructions of an AVX2 processor without VNNI (`bench.avx2_only`)."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from bench import avx2_only
from converters.quantizing.saturation import emulate
from tests.support.conv_models import images
from tests.support.saturating import heavy, static

RUN = """
import sys
import numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
(answer,) = session.run(None, {"x": numpy.load(sys.argv[2])})
numpy.save(sys.argv[3], answer)
"""


@pytest.fixture(autouse=True)
def here() -> None:
    if not avx2_only.possible():
        pytest.skip("this machine cannot pass for an AVX2 processor: it needs gcc and cpuid_fault in /proc/cpuinfo")


def test_the_check_predicts_to_the_bit_what_such_a_processor_answers(tmp_path: Path) -> None:
    x = images(32, seed=4)
    model = static(heavy(), x, reduce_range=False)
    ((predicted,),) = emulate(model, [{"x": x}])
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    np.save(tmp_path / "x.npy", x)
    places = [str(tmp_path / name) for name in ("model.onnx", "x.npy", "answer.npy")]
    done = avx2_only.run([sys.executable, "-c", RUN, *places], capture=True, timeout_s=60)
    assert (done.returncode, done.stderr) == (0, "")
    np.testing.assert_array_equal(np.load(tmp_path / "answer.npy"), predicted)


def test_a_build_machine_of_that_kind_judges_for_other_processors_as_they_would() -> None:
    same = "tests/integration/test_convert_search.py::test_any_refuses_what_a_saturating_processor_ruins_and_vnni_takes_it"
    # pytest's own handler of faults would take the place of the one that hides.
    done = avx2_only.run([sys.executable, "-m", "pytest", "-p", "no:faulthandler", same], capture=True, timeout_s=100)
    assert done.returncode == 0, done.stdout


def test_a_program_sees_nothing_newer_than_avx2_and_its_own_faults_still_end_it() -> None:
    features = "import numpy; print(*(k for k, v in numpy._core._multiarray_umath.__cpu_features__.items() if v))"
    seen = avx2_only.run([sys.executable, "-c", features], capture=True).stdout.split()
    assert "AVX2" in seen
    assert not [name for name in seen if name.startswith("AVX512")]
    assert avx2_only.run([sys.executable, "-c", "import ctypes; ctypes.string_at(0)"], capture=True).returncode < 0


def test_within_such_a_program_another_one_is_run_as_it_is() -> None:
    said = "from bench import avx2_only; print(avx2_only.run(['echo', 'within'], capture=True).stdout)"
    assert "within" in avx2_only.run([sys.executable, "-c", said], capture=True).stdout
