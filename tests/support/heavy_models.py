"""Keras and PyTorch models for the heavy tests. Imports neither until a function is called."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAMPLES = 64


def numbers(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(SAMPLES, *shape)).astype(np.float32)


def keras_cnn() -> Any:
    """Convolutions of every kind with batch normalisation whose numbers are not 0 and 1."""
    import keras

    layers = keras.layers
    keras.utils.set_random_seed(1)
    given = keras.Input((16, 16, 3), name="picture")
    x = layers.Conv2D(8, 3, padding="same", strides=2, use_bias=False)(given)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(3, padding="same")(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.SeparableConv2D(12, 3, activation="swish")(x)
    x = layers.Dropout(0.3)(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(given, layers.Dense(5, activation="softmax")(x))
    chance = np.random.default_rng(2)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([chance.uniform(0.5, 2, weights.shape) for weights in layer.get_weights()])
    return model


def keras_two() -> Any:
    """Two inputs and two outputs, both by name."""
    import keras

    layers = keras.layers
    keras.utils.set_random_seed(2)
    a, b = keras.Input((4,), name="a"), keras.Input((6,), name="b")
    x = layers.Concatenate()([layers.Dense(8, activation="relu")(a), layers.Dense(8)(b)])
    return keras.Model({"a": a, "b": b}, {"score": layers.Dense(3)(x), "value": layers.Dense(1)(x)})


def keras_recurrent() -> Any:
    import keras

    keras.utils.set_random_seed(3)
    layers = keras.layers
    return keras.Sequential([keras.Input((12, 5)), layers.LSTM(7, return_sequences=True), layers.GRU(6), layers.Dense(2)])


def keras_attention() -> Any:
    import keras

    keras.utils.set_random_seed(4)
    layers = keras.layers
    given = keras.Input((10, 8))
    x = layers.LayerNormalization()(layers.Add()([layers.MultiHeadAttention(2, 4)(query=given, value=given), given]))
    return keras.Model(given, layers.Dense(3)(layers.Flatten()(x)))


KERAS: Mapping[str, tuple[Any, Mapping[str, NDArray[np.float32]]]] = {
    "cnn": (keras_cnn, {"image": numbers(16, 16, 3)}),
    "two": (keras_two, {"a": numbers(4), "b": numbers(6, seed=1)}),
    "recurrent": (keras_recurrent, {"steps": numbers(12, 5)}),
    "attention": (keras_attention, {"tokens": numbers(10, 8)}),
}


def as_keras_2(path: Path) -> None:
    """Put into an `.h5` file what Keras 2 wrote there and Keras 3 refuses: `groups` of a depthwise convolution."""
    import json

    import h5py

    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        found = [layer for layer in config["config"]["layers"] if layer["class_name"] == "DepthwiseConv2D"]
        assert found
        for layer in found:
            layer["config"]["groups"] = 1
        file.attrs["model_config"] = json.dumps(config)


TORCH_MODULE = """
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(8)
        self.dropout = torch.nn.Dropout(0.5)
        self.head = torch.nn.Linear(8, 4)

    def forward(self, image):
        x = torch.relu(self.norm(self.convolution(image)))
        return self.head(self.dropout(x.mean((2, 3))))


class Encoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, tokens):
        return self.layer(tokens)


class Two(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = torch.nn.Linear(4, 3), torch.nn.Linear(6, 3)

    def forward(self, a, b):
        together = self.left(a) + self.right(b)
        return together, together.sum(1, keepdim=True)


class Branching(torch.nn.Module):
    def forward(self, a):
        return a if a.sum() > 0 else -a


class Inverse(torch.nn.Module):
    def forward(self, a):
        return torch.linalg.svd(a @ a.transpose(1, 2))[1]


def not_a_module():
    return 3


def breaks():
    raise RuntimeError("no such file: weights.bin")
"""
