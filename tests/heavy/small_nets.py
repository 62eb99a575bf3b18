"""Tiny torch networks for the tests that train: built by factories, as a user's own are."""

from __future__ import annotations

import torch
from torch import nn


class Digits(nn.Module):  # type: ignore[misc]  # torch is not always installed
    """8×8 pixels (0 to 16) to the probabilities of ten digits."""

    def __init__(self, first: int = 16, second: int = 32, third: int = 64) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, first, 3, padding=1, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(),
            nn.Conv2d(first, second, 3, padding=1, bias=False),
            nn.BatchNorm2d(second),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(16 * second, third), nn.ReLU(), nn.Dropout(0.2), nn.Linear(third, 10))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.head(self.features(pixels / 16.0)), dim=1)


class Residual(nn.Module):  # type: ignore[misc]  # torch is not always installed
    """Two inputs, a residual sum, a depthwise convolution, and two outputs: scores, and one value a sample."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.deep = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.wide = nn.Conv2d(16, 16, 1)
        self.scores = nn.Linear(16, 10)
        self.value = nn.Linear(16 + 4, 1)

    def forward(self, pixels: torch.Tensor, extra: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        stem = torch.relu(self.stem(pixels / 16.0))
        mixed = torch.relu(stem + self.wide(torch.relu(self.deep(stem)))).mean(dim=(2, 3))
        return self.scores(mixed), self.value(torch.cat([mixed, extra], dim=1))


class Regressor(nn.Module):  # type: ignore[misc]  # torch is not always installed
    """Eight numbers to three, with no class in sight."""

    def __init__(self, hidden: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Fragile(nn.Module):  # type: ignore[misc]  # torch is not always installed
    """Computes well until a step of training makes its parameter negative."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Parameter(torch.full((1,), 1e-4))
        self.layer = nn.Linear(64, 10)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.layer(pixels.flatten(1)) * self.narrow.sqrt() * 100


def digits() -> Digits:
    return Digits()


def student() -> Digits:
    return Digits(8, 12, 24)


def fragile() -> Fragile:
    torch.manual_seed(0)
    return Fragile()


def five_classes() -> Digits:
    made = Digits(8, 8, 8)
    made.head[4] = nn.Linear(8, 5)
    return made


def number() -> int:
    return 3
