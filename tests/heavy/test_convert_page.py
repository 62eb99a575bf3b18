"""Each line of docs/convert.md under "From other frameworks", played as it stands there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import converters

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]

ROOT = Path(__file__).parents[2]
SECTION = re.search(
    r"## From other frameworks\n\n```\n(.*?)```", (ROOT / "docs" / "convert.md").read_text(encoding="utf-8"), re.DOTALL
)
assert SECTION is not None
LINES = SECTION[1].splitlines()

KERAS = """
import keras
import tensorflow

layers = [keras.Input((64,)), keras.layers.Dense(32, activation="relu"), keras.layers.Dense(10, activation="softmax")]
model = keras.Sequential(layers)
model.save("model.keras")
model.export("saved_model", verbose=False)
with open("float.tflite", "wb") as file:
    file.write(tensorflow.lite.TFLiteConverter.from_saved_model("saved_model").convert())
"""

FACTORY = """
import torch


def build():
    return torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10), torch.nn.Softmax(dim=1))
"""

TORCH = """
import torch
from training.net import build

model = build().eval()
torch.save(model.state_dict(), "net.pt")
free = ({0: torch.export.Dim.DYNAMIC},)
torch.export.save(torch.export.export(model, (torch.zeros(2, 64),), dynamic_shapes=free), "model.pt2")
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with every model that the page names, all of 64 pixels, and samples of them."""
    place = tmp_path_factory.mktemp("frameworks")
    (place / "examples").symlink_to(ROOT / "examples")
    digits = np.load(ROOT / "examples" / "digits" / "digits.npz")
    pixels, label = digits["pixels"].reshape(-1, 64), digits["label"]
    np.savez(place / "data.npz", pixels=pixels, label=label)
    (place / "training").mkdir()
    (place / "training" / "net.py").write_text(FACTORY)
    for program in (KERAS, TORCH):  # each in a process of its own: the two frameworks do not bear each other
        subprocess.run([sys.executable, "-c", program], cwd=place, check=True, capture_output=True, timeout=300)
    _sklearn(place, pixels, label)
    return place


def _sklearn(place: Path, pixels: np.ndarray, label: np.ndarray) -> None:
    import skops.io
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pipeline = make_pipeline(StandardScaler(), MLPClassifier((32,), max_iter=20, random_state=0)).fit(pixels, label)
    skops.io.dump(pipeline, place / "pipeline.skops")


def test_the_page_shows_a_line_for_each_framework() -> None:
    assert len(LINES) == 7


@pytest.mark.parametrize("line", LINES, ids=[line.split()[2] for line in LINES])
def test_a_line_of_the_page_makes_a_bundle(line: str, place: Path) -> None:
    words = shlex.split(line)
    done = subprocess.run([sys.executable, "-m", *words], cwd=place, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    bundle = converters.open_bundle(place / words[words.index("--out") + 1])
    assert {"float32", "int8-static", "int8-weights"} <= {each.name for each in converters.read_report(bundle).variants}
    assert [each.name for each in bundle.manifest.inputs] == ["pixels"]
