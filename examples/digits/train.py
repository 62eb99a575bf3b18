"""Train the two versions of the digits model: `/path/to/training/env/bin/python train.py` (about a minute on two cores).

Needs `pip install torch onnx onnxscript scikit-learn`; nothing else in Edgeward does. Writes, beside itself, `digits.npz`,
`digits-v1.onnx` and `digits-v2.onnx`. README.md says where the data comes from and what its arrays are.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import nn

HERE = Path(__file__).parent
SEED = 20240229
TRAINING_SAMPLES = 897
PIXEL_RANGE = 16.0
"""The data set's pixels are counts from 0 to 16."""


class DigitsNet(nn.Module):
    """8×8 pixels as published (0–16) → the probabilities of ten digits.

    Scaling is a part of the model, so an application sends what its scanner gives. So is the softmax: the top output is then
    a confidence in [0, 1], which telemetry can hold against the reference profile; a logit has no such scale.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 10))

    def logits(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the loss wants."""
        return self.head(self.features(pixels / PIXEL_RANGE))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the application wants."""
        return torch.softmax(self.logits(pixels), dim=1)


def load_data() -> dict[str, NDArray[np.generic]]:
    """The samples in a fixed random order: the first half to train with, the rest never seen in training."""
    digits = load_digits()
    order = np.random.default_rng(SEED).permutation(len(digits.target))
    pixels = digits.images.astype(np.float32)[order, np.newaxis]
    label = digits.target.astype(np.int64)[order]
    cut = TRAINING_SAMPLES
    return {"train_pixels": pixels[:cut], "train_label": label[:cut], "pixels": pixels[cut:], "label": label[cut:]}


def shifted(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The same digits, each batch moved by at most one pixel."""
    dx, dy = (int(torch.randint(-1, 2, (1,), generator=generator)) for _ in range(2))
    padded = nn.functional.pad(pixels, (1, 1, 1, 1))
    return padded[:, :, 1 + dy : 9 + dy, 1 + dx : 9 + dx]


def train(model: DigitsNet, pixels: torch.Tensor, label: torch.Tensor, *, epochs: int, rate: float, augment: bool) -> None:
    generator = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(label), generator=generator).split(64):
            images = shifted(pixels[batch], generator) if augment else pixels[batch]
            loss = nn.functional.cross_entropy(model.logits(images), label[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    model.eval()


def export(model: DigitsNet, path: Path) -> None:
    """Write float ONNX with a free batch axis and without the exporter's notes on this machine's paths."""
    sample = torch.zeros(2, 1, 8, 8)
    program = torch.onnx.export(
        model, (sample,), input_names=["pixels"], output_names=["probabilities"], opset_version=18,
        dynamic_shapes=({0: torch.export.Dim("N")},), dynamo=True,
    )  # fmt: skip
    content = program.model_proto
    for part in (content, content.graph, *content.graph.node, *content.graph.value_info, *content.graph.initializer):
        del part.metadata_props[:]
    for node in content.graph.node:
        node.ClearField("doc_string")
    onnx.checker.check_model(content, full_check=True)
    path.write_bytes(content.SerializeToString(deterministic=True))


def accuracy(model: DigitsNet, data: dict[str, NDArray[np.generic]]) -> float:
    with torch.no_grad():
        predicted = model(torch.from_numpy(data["pixels"])).argmax(1).numpy()
    return float((predicted == data["label"]).mean())


def main() -> None:
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(mode=True)
    torch.set_num_threads(1)
    data = load_data()
    np.savez_compressed(HERE / "digits.npz", **data)
    pixels, label = torch.from_numpy(data["train_pixels"]), torch.from_numpy(data["train_label"])
    model = DigitsNet()
    train(model, pixels[:300], label[:300], epochs=25, rate=1e-3, augment=False)
    export(model, HERE / "digits-v1.onnx")
    print(f"v1, a first model from 300 samples: {accuracy(model, data):.4f}")
    train(model, pixels, label, epochs=60, rate=2e-3, augment=True)
    export(model, HERE / "digits-v2.onnx")
    print(f"v2, trained on with all {len(label)} samples, shifted: {accuracy(model, data):.4f}")


if __name__ == "__main__":
    main()
