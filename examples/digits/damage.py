"""Damage the weights of a float ONNX model on purpose: `python damage.py digits-v2.onnx digits-v3-damaged.onnx`.

What comes out is a valid model that loads, runs and answers nonsense: what a bad training run or a wrong file looks like to
a fleet. The demo rolls it out to show that the activation gate refuses it on every device.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper


def damage(source: Path, target: Path, *, noise: float = 5.0, seed: int = 3) -> int:
    """Add noise of `noise` standard deviations to every float weight; return how many tensors were changed."""
    model = onnx.load(str(source))
    chance = np.random.default_rng(seed)
    changed = 0
    for tensor in model.graph.initializer:
        weights = numpy_helper.to_array(tensor)
        if weights.ndim == 0 or not np.issubdtype(weights.dtype, np.floating):
            continue
        bad = weights + chance.normal(0.0, noise * (float(weights.std()) or 1.0), weights.shape)
        tensor.CopyFrom(numpy_helper.from_array(bad.astype(weights.dtype), tensor.name))
        changed += 1
    target.write_bytes(model.SerializeToString(deterministic=True))
    return changed


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--noise", type=float, default=5.0, help="in standard deviations of each tensor")
    parser.add_argument("--seed", type=int, default=3)
    given = parser.parse_args()
    changed = damage(given.source, given.target, noise=given.noise, seed=given.seed)
    print(f"{given.target}: {changed} weight tensors damaged")


if __name__ == "__main__":
    main()
