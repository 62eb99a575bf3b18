# ruff: noqa: ANN401, D102, PLR0917, RUF007
# mypy: disable-error-code="misc"
"""Trains small look-alikes of the models that people put on devices, for the benches: `python -m bench.zoo FOLDER [NAME …]`.

Needs torch and scikit-learn (any environment with both; none of the project's has them). Each model is trained on the spot on
data that is made or ships with scikit-learn, and written as NAME.onnx and NAME.npz (samples that it was not trained with).
They differ in what exporters do: NHWC inputs behind a Transpose, normalisation folded, left as Mul and Add or as itself,
opsets 9 to 21; and in what training does: dead channels, depthwise channels of very uneven ranges, outliers in transformers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import nn

from bench.zoo_data import keywords, pictures, scenes, sounds, tokens

Array = NDArray[Any]


class Affine(nn.Module):
    """Batch normalisation as tf2onnx leaves it: a Mul and an Add."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        shape = (1, -1, 1, 1) if isinstance(norm, nn.BatchNorm2d) else (1, -1)
        self.scale = nn.Parameter(scale.detach().reshape(shape))
        self.shift = nn.Parameter((norm.bias - norm.running_mean * scale).detach().reshape(shape))

    def forward(self, x: Any) -> Any:
        return x * self.scale + self.shift


def unfolded(module: Any) -> Any:
    """The same model with every batch normalisation as Mul and Add."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            setattr(module, name, Affine(child))
        else:
            unfolded(child)
    return module


class Nhwc(nn.Module):
    """Takes samples with channels last, as Keras models do."""

    def __init__(self, inner: Any, *, softmax: bool = True) -> None:
        super().__init__()
        self.inner, self.softmax = inner, softmax

    def forward(self, x: Any) -> Any:
        out = self.inner(x.permute(0, 3, 1, 2))
        return out.softmax(1) if self.softmax else out


def conv(given: int, made: int, kernel: int | tuple[int, int] = 3, stride: Any = 1, groups: int = 1, act: Any = nn.ReLU) -> Any:
    pad = tuple(k // 2 for k in kernel) if isinstance(kernel, tuple) else kernel // 2
    layers = [nn.Conv2d(given, made, kernel, stride, pad, groups=groups, bias=False), nn.BatchNorm2d(made)]
    return nn.Sequential(*layers, *([act()] if act else []))


def separable(given: int, made: int, stride: int = 1) -> Any:
    return nn.Sequential(conv(given, given, 3, stride, given), conv(given, made, 1))


class Residual(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, given: int, made: int, stride: int) -> None:
        super().__init__()
        self.one, self.two = conv(given, made, 3, stride), conv(made, made, act=None)
        self.short = nn.Identity() if stride == 1 else nn.Conv2d(given, made, 1, stride)

    def forward(self, x: Any) -> Any:
        return torch.relu(self.two(self.one(x)) + self.short(x))


class Inverted(nn.Module):
    """MobileNetV2's block, with ReLU6."""

    def __init__(self, given: int, made: int, stride: int, expansion: int = 4) -> None:
        super().__init__()
        wide = expansion * given
        widen = [conv(given, wide, 1, act=nn.ReLU6)] if expansion > 1 else []
        self.body = nn.Sequential(*widen, conv(wide, wide, 3, stride, wide, act=nn.ReLU6), conv(wide, made, 1, act=None))
        self.sums = stride == 1 and given == made

    def forward(self, x: Any) -> Any:
        return x + self.body(x) if self.sums else self.body(x)


class Fire(nn.Module):
    """SqueezeNet's block: two ways, concatenated."""

    def __init__(self, given: int, squeezed: int, made: int) -> None:
        super().__init__()
        self.squeeze = conv(given, squeezed, 1)
        self.one, self.three = conv(squeezed, made, 1), conv(squeezed, made, 3)

    def forward(self, x: Any) -> Any:
        squeezed = self.squeeze(x)
        return torch.cat([self.one(squeezed), self.three(squeezed)], 1)


class Layer(nn.Module):
    """A transformer's layer, normalised behind each sum, as BERT does."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Any, mask: Any) -> Any:
        split = [
            part(x).reshape(x.shape[0], x.shape[1], self.heads, self.size).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        ]
        weights = (split[0] @ split[1].transpose(2, 3) / self.size**0.5 + mask).softmax(-1)
        seen = (weights @ split[2]).transpose(1, 2).reshape(x.shape)
        x = self.first(x + self.out(seen))
        return self.second(x + self.narrow(nn.functional.gelu(self.wide(x))))


class Encoder(nn.Module):
    """Token numbers and their mask in, one vector a token out."""

    def __init__(self, words: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.words, self.places, self.kinds = nn.Embedding(words, width), nn.Embedding(512, width), nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))

    def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
        at = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.norm(self.words(input_ids) + self.places(at) + self.kinds(token_type_ids))
        mask = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * -10000.0
        for layer in self.layers:
            x = layer(x, mask)
        return x


# -- training ------------------------------------------------------------------------------------------------------------


def train(model: Any, x: Array, y: Array, *, epochs: int, rate: float = 2e-3, batch: int = 64) -> Any:
    """Cross entropy, or the mean squared error where y is float."""
    given, wanted = torch.from_numpy(x), torch.from_numpy(y)
    optimizer = torch.optim.Adam(model.parameters(), rate)
    steps = epochs * (len(x) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate * 2, total_steps=steps)
    loss_of = nn.functional.mse_loss if y.dtype == np.float32 else nn.functional.cross_entropy
    model.train()
    for _ in range(epochs):
        for at in torch.randperm(len(x))[: len(x) // batch * batch].reshape(-1, batch):
            optimizer.zero_grad()
            loss_of(model(given[at]), wanted[at]).backward()
            optimizer.step()
            hold(model)
            schedule.step()
    return model.eval()


def doom(model: Any, share: float) -> None:
    """Choose channels that training shall not use: their scale stays 0, and most of their shifts below it.

    Depthwise layers lose those of the layer before them, as in training that starves channels.
    """
    doomed, depthwise = torch.zeros(0, dtype=torch.bool), False
    for module in model.modules():
        depthwise = module.groups > 1 if isinstance(module, nn.Conv2d) else depthwise
        if isinstance(module, nn.BatchNorm2d):
            doomed = doomed if depthwise and len(doomed) else torch.rand(module.num_features) < share
            module.register_buffer("doomed", doomed, persistent=False)
            module.register_buffer("dark", doomed & (torch.rand(module.num_features) < 0.9), persistent=False)


def hold(model: Any) -> None:
    with torch.no_grad():
        for module in model.modules():
            if hasattr(module, "doomed"):
                module.weight[module.doomed] = 0.0
                module.bias[module.dark] = -module.bias[module.dark].abs()


def wither(model: Any) -> None:
    """What long weight decay does to channels that nobody needs: weights near 1e-22."""
    with torch.no_grad():
        for block in model.modules():
            if isinstance(block, nn.Sequential) and len(block) >= 2 and hasattr(block[1], "doomed"):
                doomed = block[1].doomed
                block[0].weight[doomed] *= 1e-22
                block[1].weight[doomed] = 1.0
                block[1].running_mean[doomed] *= 1e-22
                block[1].running_var[doomed] = 1.0


def uneven(model: Any, seed: int) -> None:
    """Give depthwise channels ranges that differ by hundreds, taken back in the next layer: exact in float (ReLU only)."""
    rng = np.random.default_rng(seed)
    convs = [
        block
        for block in model.modules()
        if isinstance(block, nn.Sequential) and len(block) == 3 and isinstance(block[0], nn.Conv2d)
    ]
    with torch.no_grad():
        for one, other in zip(convs, convs[1:], strict=False):
            if one[0].groups > 1 and other[0].groups == 1:
                by = torch.from_numpy(np.exp(rng.normal(size=one[0].out_channels) * 1.5).astype(np.float32))
                one[1].weight *= by
                one[1].bias *= by
                other[0].weight /= by[None, :, None, None]


# -- models --------------------------------------------------------------------------------------------------------------


def save(
    folder: Path, name: str, model: Any, arrays: dict[str, Array], opset: int, *, keep: bool = False, free: tuple[str, ...] = ()
) -> None:
    inputs = [key for key in arrays if key != "label"]
    axes = {key: {0: "batch"} | ({1: "length"} if key in free else {}) for key in (*inputs, "output")}
    mode = torch.onnx.TrainingMode.PRESERVE if keep else torch.onnx.TrainingMode.EVAL
    examples = tuple(torch.from_numpy(arrays[key][:2]) for key in inputs)
    torch.onnx.export(
        model.eval(), examples, str(folder / f"{name}.onnx"), input_names=inputs,
        output_names=["output"], dynamic_axes=axes, opset_version=min(opset, 18), dynamo=False, training=mode,
        do_constant_folding=not keep,
    )  # fmt: skip
    if opset > 18:
        import onnx

        path = str(folder / f"{name}.onnx")
        onnx.save(onnx.version_converter.convert_version(onnx.load(path), opset), path)
    np.savez_compressed(folder / f"{name}.npz", allow_pickle=False, **arrays)
    with torch.no_grad():
        answers = model(*(torch.from_numpy(arrays[key][:600]) for key in inputs)).numpy()
    if "label" in arrays and answers.shape[1] <= 12:
        print(name, "accuracy", (answers.argmax(1) == arrays["label"][:600]).mean(), flush=True)


def dscnn(folder: Path) -> None:
    x, y = keywords(6000, 0)
    inner = nn.Sequential(
        conv(1, 64, (10, 4), (2, 2)),
        *(separable(64, 64) for _ in range(4)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 12),
    )
    train(Nhwc(inner, softmax=False), x, y, epochs=6)
    uneven(inner, 3)
    x, y = keywords(1200, 1)
    save(folder, "dscnn", unfolded(Nhwc(inner)), {"input_1": x, "label": y}, 13)


def resnet(folder: Path) -> None:
    x, y = pictures(5000, 0)
    inner = nn.Sequential(
        conv(3, 16),
        Residual(16, 16, 1),
        Residual(16, 32, 2),
        Residual(32, 64, 2),
        nn.AvgPool2d(8),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
    train(Nhwc(inner, softmax=False), x, y, epochs=8)
    x, y = pictures(1000, 1)
    save(folder, "resnet8", unfolded(Nhwc(inner)), {"input_1": x, "label": y}, 17)


def visual_wake_words(folder: Path) -> None:
    x, y = scenes(2000, 0)
    widths = [
        (8, 16, 1),
        (16, 32, 2),
        (32, 32, 1),
        (32, 64, 2),
        (64, 64, 1),
        (64, 128, 2),
        *[(128, 128, 1)] * 5,
        (128, 256, 2),
        (256, 256, 1),
    ]
    inner = nn.Sequential(
        conv(3, 8, 3, 2), *(separable(*each) for each in widths), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 2)
    )
    doom(inner, 0.55)
    train(Nhwc(inner, softmax=False), x, y, epochs=4, batch=16)
    wither(inner)
    x, y = scenes(800, 1)
    save(folder, "vww", Nhwc(inner), {"input_1": x, "label": y}, 13)


def autoencoder(folder: Path) -> None:
    x, _ = sounds(8000, 0)
    widths = [640, 128, 128, 128, 128, 8, 128, 128, 128, 128]
    layers = [
        part
        for one, other in zip(widths, widths[1:], strict=False)
        for part in (nn.Linear(one, other), nn.BatchNorm1d(other), nn.ReLU())
    ]
    model = nn.Sequential(*layers, nn.Linear(128, 640))
    with torch.no_grad():  # where it is to start from: steps of Adam are too small to go there
        model[-1].bias.copy_(torch.from_numpy(x.mean(0)))
        model[-1].weight *= x.std()
    train(model, x, x, epochs=12)
    x, y = sounds(2000, 1)
    save(folder, "autoencoder", unfolded(model), {"input_1": x, "label": y}, 11)
    with torch.no_grad():
        error = ((model(torch.from_numpy(x)).numpy() - x) ** 2).mean(1)
    print("autoencoder AUC", roc_auc_score(y, error), flush=True)


def mobilenet2(folder: Path) -> None:
    x, y = pictures(3000, 0, clear=True)
    blocks = [(12, 12, 1), (12, 20, 2), (20, 20, 1), (20, 20, 1), (20, 40, 2), (40, 40, 1), (40, 40, 1)]
    inner = nn.Sequential(
        conv(3, 12, act=nn.ReLU6), *(Inverted(*each) for each in blocks), conv(40, 128, 1, act=nn.ReLU6),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip
    doom(inner, 0.3)
    train(nn.Sequential(inner), x.transpose(0, 3, 1, 2) / 255, y, epochs=6, batch=32)
    wither(inner)
    x, y = pictures(900, 1, clear=True)
    save(folder, "mobilenet2", inner, {"image": (x.transpose(0, 3, 1, 2) / 255).copy(), "label": y}, 9, keep=True)


def mobilenetv2(folder: Path) -> None:
    """The whole network at 224 × 224 with 1000 classes (Sandler et al., 2018, table 2), of which ten are learned."""
    layers, given = [conv(3, 32, 3, 2, act=nn.ReLU6)], 32
    for expansion, made, repeats, stride in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    ):  # fmt: skip
        for at in range(repeats):
            layers.append(Inverted(given, made, stride if at == 0 else 1, expansion))
            given = made
    last = [conv(given, 1280, 1, act=nn.ReLU6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000)]
    inner = nn.Sequential(*layers, *last)
    for count, seed, size, rate in ((3000, 0, 64, 2e-3), (800, 0, 224, 5e-4)):  # most of it small, which takes a tenth
        x, y = pictures(count, seed, size, clear=True)
        train(inner, (x / 127.5 - 1).transpose(0, 3, 1, 2).copy(), y, epochs=2, batch=32, rate=rate)
    x, y = pictures(300, 1, 224, clear=True)
    save(folder, "mobilenetv2", inner, {"image": (x / 127.5 - 1).transpose(0, 3, 1, 2).copy(), "label": y}, 17)


def squeezenet(folder: Path) -> None:
    x, y = pictures(4000, 0, clear=True)
    inner = nn.Sequential(
        conv(3, 24, 3, 2), Fire(24, 8, 24), Fire(48, 12, 32), nn.MaxPool2d(2), Fire(64, 16, 48), nn.Conv2d(96, 10, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    doom(inner, 0.25)
    train(inner, x.transpose(0, 3, 1, 2) / 255, y, epochs=10, batch=32)
    wither(inner)
    x, y = pictures(900, 1, clear=True)
    save(
        folder,
        "squeezenet",
        nn.Sequential(inner, nn.Softmax(1)),
        {"image": (x.transpose(0, 3, 1, 2) / 255).copy(), "label": y},
        21,
    )


class Classifier(nn.Module):
    """An encoder with its mean taken, for training only."""

    def __init__(self, encoder: Any, width: int, classes: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(width, classes)

    def forward(self, ids: Any) -> Any:
        return self.head(self.encoder(ids, torch.ones_like(ids), torch.zeros_like(ids)).mean(1))


def outliers(encoder: Any, seed: int) -> None:
    """A few channels that are many times larger than the others, as trained transformers have them."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for layer in encoder.layers:
            width = layer.first.weight.shape[0]
            some = torch.from_numpy(rng.choice(width, max(2, width // 64), replace=False))
            layer.first.weight[some] *= 12
            layer.first.bias[some] *= 12


def small_encoder(folder: Path) -> None:
    data = tokens(3000, 32, 4000, 0)
    labels = (data["input_ids"] % 5).sum(1) % 2 + 2 * (data["input_ids"][:, :16].mean(1) > data["input_ids"][:, 16:].mean(1))
    encoder = Encoder(3000, 128, 3, 4)
    train(Classifier(encoder, 128, 4), data["input_ids"], labels.astype(np.int64), epochs=4, rate=5e-4)
    outliers(encoder, 5)
    save(
        folder,
        "encoder",
        encoder,
        tokens(3000, 32, 600, 1),
        17,
        free=("input_ids", "attention_mask", "token_type_ids", "output"),
    )


def minilm(folder: Path) -> None:
    """MiniLM's size, untrained: for what the large one costs in time and bytes."""
    encoder = Encoder(30522, 384, 6, 12)
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.04)
    outliers(encoder, 6)
    save(
        folder,
        "minilm",
        encoder,
        tokens(30522, 64, 256, 1),
        14,
        free=("input_ids", "attention_mask", "token_type_ids", "output"),
    )


MODELS: dict[str, Callable[[Path], None]] = {
    "dscnn": dscnn, "resnet8": resnet, "vww": visual_wake_words, "autoencoder": autoencoder, "mobilenet2": mobilenet2,
    "mobilenetv2": mobilenetv2, "squeezenet": squeezenet, "encoder": small_encoder, "minilm": minilm,
}  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:] or MODELS:
        torch.manual_seed(0)
        MODELS[name](folder)
        print(name, "written", flush=True)


if __name__ == "__main__":
    main()
