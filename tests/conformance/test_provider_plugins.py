"""Execution providers of packages beside onnxruntime, and what they compile: for real where such a package is installed.

`make heavy` runs this in an environment of its own (`scripts/test-plugins`); elsewhere there is none, and nothing to do.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import runtime
import runtime.model
from fleet_protocol.digests import digest_of
from runtime.engines import providers
from runtime.errors import EngineUnavailable
from runtime.tuning import compiled
from tests.support import conv_models

COMPILING = [each.name for each in providers.working() if each.cache]

pytestmark = pytest.mark.skipif(not COMPILING, reason="no provider here compiles models")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A network of fixed shapes: QNN compiles no other."""
    model = conv_models.separable(conv_models.separable_tensors())
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


@pytest.mark.parametrize("provider", COMPILING)
def test_what_it_compiled_is_kept_answers_the_same_and_is_not_written_to(path: Path, provider: str, tmp_path: Path) -> None:
    digest = digest_of(path.read_bytes())
    entry = compiled.compile_for(provider, path, digest=digest, cache=tmp_path / "cache", worth=-1e6)
    request = {"x": conv_models.images(1)}
    with runtime.load(path) as plain, runtime.model.load(path, provider=provider, compiled=entry) as model:
        np.testing.assert_allclose(model(request)["y"], plain(request)["y"], atol=0.01)
    assert compiled.find(provider, digest=digest, cache=tmp_path / "cache") == entry


def test_a_device_that_is_not_there_is_no_other_one(path: Path) -> None:
    if "openvino" not in COMPILING:
        pytest.skip("no OpenVINO here")
    with pytest.raises(EngineUnavailable, match=r"OpenVINO has no device NPU here; it has .*CPU"):
        runtime.load(path, provider="openvino:NPU")
