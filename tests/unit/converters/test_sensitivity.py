"""Which node is blamed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from onnx import helper

from converters.quantizing.quantize import Quantizer
from converters.quantizing.sensitivity import rank
from converters.recipe import StaticRecipe
from converters.sources import Source
from fleet_protocol.digests import digest_of
from tests.support.conv_models import images, separable, separable_tensors

CHAIN = [helper.make_node("Relu", [before], [after], name=f"n{after}") for before, after in ("xa", "ab", "bc")]


def test_the_node_where_the_noise_came_in_is_blamed_and_not_those_behind_it() -> None:
    found = rank(CHAIN, {"a": 60.0, "b": 20.0, "c": 20.0})
    assert [each.node for each in found] == ["nb", "na", "nc"]
    assert found[0].added > 0.009
    assert found[2].added == 0


def test_nodes_that_were_not_measured_are_left_out() -> None:
    assert [each.node for each in rank(CHAIN, {"b": 30.0})] == ["nb"]


def test_a_layer_with_one_huge_channel_suffers_most_and_is_named_as_the_quantizer_wants_it() -> None:
    tensors = separable_tensors(3)
    tensors["b2"][0] = 300.0
    tensors["w3"][:, 0] = 0
    source = Source(path=Path("m.onnx"), model=separable(tensors), digest=digest_of(b"m"))
    quantizer = Quantizer(source, batches=lambda: [{"x": images(32)}])
    recipe = StaticRecipe()
    noisy = quantizer.noise(recipe)
    assert noisy
    names = {node.name for node in quantizer.prepared().graph.node}
    assert {each.node for each in noisy} <= names
    kept = StaticRecipe(excluded=tuple(each.node for each in noisy[:3]))
    assert quantizer.apply(kept) != quantizer.apply(recipe)
    assert np.isfinite([each.sqnr_db for each in noisy]).all()


def test_the_noise_of_many_samples_takes_no_more_memory_than_that_of_one() -> None:
    """Each sample's activations are 40 MB in float, and again in the int8 model: those of 8 samples would be 640."""
    few, many = (peak_of_noise(samples) for samples in (1, 8))
    assert many - few < 100


def peak_of_noise(samples: int) -> float:
    """Megabytes at most, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", MEASURED, str(samples)], check=True, capture_output=True, text=True)
    return float(done.stdout) / 1024


MEASURED = """
import re, sys
import subprocess
import sys
from pathlib import Path
import numpy as np
from onnx import helper
from converters.quantizing.sensitivity import node_noise
from tests.support.conv_models import graph_of
names = ["x", *(f"v{at}" for at in range(19)), "y"]
nodes = [helper.make_node("Neg", [one], [other], name=other) for one, other in zip(names, names[1:])]
model = graph_of(nodes, {}, x=["n", 512 * 1024], y=["n", 512 * 1024])
samples = np.ones((int(sys.argv[1]), 512 * 1024), np.float32)
assert len(node_noise(model, model, [{"x": samples}])) == 20
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text()).group(1))
"""
