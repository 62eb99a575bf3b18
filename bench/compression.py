"""What training adds to int8, on the digits model: plain int8 beside pruned, distilled, quantization-aware and sparse int8.

Needs `pip install 'edgeward[convert,compress]' scikit-learn`; where torch is missing it says so. Sizes and accuracies hold
anywhere; latencies are ratios to the given float model, interleaved, one thread.
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

import converters
from converters.compression.recipes import DistilRecipe, NMPruneRecipe, PruneRecipe, QatRecipe, SparseRecipe, TrainingRecipe

if TYPE_CHECKING:
    import torch

_EXAMPLE = Path(__file__).parents[1] / "examples" / "digits"
_EPOCHS = 60


def measure() -> dict[str, Any]:
    if importlib.util.find_spec("torch") is None:
        return {"skipped": "torch is not installed: pip install 'edgeward[convert,compress]' scikit-learn"}
    example = _example()
    data = np.load(_EXAMPLE / "digits.npz")
    train = {"pixels": data["train_pixels"], "label": data["train_label"]}
    held_out = {"pixels": data["pixels"], "label": data["label"]}
    recipes: list[TrainingRecipe] = [
        PruneRecipe(amount=0.5),
        PruneRecipe(amount=0.75),
        DistilRecipe(student="bench.compression:student"),
        QatRecipe(),
        SparseRecipe(amount=0.5),
        NMPruneRecipe(n=2, m=4),
    ]
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as work:
        bundle = converters.compress(
            trained(example, train), held_out, train, recipes, model="digits", version="1.0.0", out=Path(work) / "digits"
        )
        report, timing = converters.read_report(bundle), converters.read_timing(bundle)
    assert timing is not None
    variants = {
        variant.name: {
            "ships": variant.shipped,
            "accuracy": None if variant.accuracy is None else round(variant.accuracy.value, 4),
            "agreement": None if variant.agreement is None else round(variant.agreement, 4),
            "bytes": variant.size,
            "size_over_given": variant.size_ratio,
            "latency_over_given": timing.variants[variant.name].ratio_to_float if variant.name in timing.variants else None,
        }
        for variant in report.variants
    }
    return {
        "held_out": report.samples.held_out,
        "seconds": round(time.perf_counter() - start, 1),
        "preferred": report.preferred,
        "trained": list(report.trained),
        "variants": variants,
    }


def trained(example: ModuleType, train: dict[str, Any]) -> torch.nn.Module:
    """The digits model, trained as the example trains its second version."""
    import torch

    torch.manual_seed(example.SEED)
    torch.set_num_threads(1)
    model: torch.nn.Module = example.DigitsNet()
    pixels, label = torch.from_numpy(train["pixels"]), torch.from_numpy(train["label"])
    example.train(model, pixels, label, epochs=_EPOCHS, rate=2e-3, augment=True)
    return model


def student() -> torch.nn.Module:
    """A model of the same kind, narrower."""
    from torch import nn

    model: torch.nn.Module = _example().DigitsNet()
    model.features = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2),
    )  # fmt: skip
    model.head = nn.Sequential(nn.Flatten(), nn.Linear(192, 24), nn.ReLU(), nn.Linear(24, 10))
    return model


def _example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("digits_training", _EXAMPLE / "train.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
