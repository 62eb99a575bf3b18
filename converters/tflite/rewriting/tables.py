"""Classical models over tables (the domain ai.onnx.ml, as scikit-learn is exported): scalers, linear models, normalisers."""

from __future__ import annotations

from typing import Final

import numpy as np
from onnx import TensorProto

from converters.tflite.rewriting.site import Array, Site

_NORMS: Final = {"L1": "ReduceL1", "L2": "ReduceL2"}


def scaler(site: Site) -> str:
    """(x − offset) · scale, each one number or one a feature."""
    offset, scale = (_numbers(site, name) for name in ("offset", "scale"))
    return site.add("Mul", site.add("Sub", _float(site), site.stored(offset)), site.stored(scale))


def normalizer(site: Site) -> str | None:
    """Each row by its norm; a row of zeros stays one."""
    norm = _NORMS.get(site.attribute("norm", "MAX"))
    if norm is None:
        return None
    rows = _float(site)
    smallest = site.stored(np.array(np.finfo(np.float32).tiny, np.float32))
    return site.add("Div", rows, site.add("Max", site.reduce(norm, rows, [1]), smallest))


def linear_regressor(site: Site) -> str | None:
    """The coefficients' product with each row, plus intercepts."""
    if site.attribute("post_transform", "NONE") != "NONE":
        return None
    return _linear(site, int(site.attribute("targets", 1)))


def linear_classifier(site: Site) -> list[str] | None:
    """The scores of a linear model, and the label of the largest. Labels that are texts have no form: only scores then."""
    labels, names = site.attribute("classlabels_ints"), site.attribute("classlabels_strings")
    transform = site.attribute("post_transform", "NONE")
    rows = len(_numbers(site, "coefficients")) // site.shape()[1]
    if transform not in ("NONE", "LOGISTIC", *(["SOFTMAX"] if rows > 1 else [])) or (labels is None and site.is_read(0)):
        return None
    count = len(labels or names or [])
    linear, alone = _linear(site, rows), rows == 1 and count == 2
    if transform == "SOFTMAX":
        made = site.add("Softmax", linear, axis=1)
    else:
        made = linear if transform == "NONE" else site.add("Sigmoid", linear)
    if alone:
        made = site.add("Concat", site.add("Sub", site.stored(np.array(1, np.float32)), made), made, axis=1)
        linear = site.add("Concat", site.add("Neg", linear), linear, axis=1)
    if not site.is_read(0):
        return ["", made]
    best = site.add("ArgMax", linear, axis=1, keepdims=0)
    return [site.add("Gather", site.whole(labels or []), best, axis=0), made]


def binarizer(site: Site) -> str:
    """1 where it is above the threshold, else 0."""
    above = site.add("Greater", _float(site), site.stored(np.array(site.attribute("threshold", 0.0), np.float32)))
    return site.add("Cast", above, to=TensorProto.FLOAT)


def imputer(site: Site) -> str | None:
    """What is missing (NaN, or a number that stands for it) is replaced, by one number or one a feature."""
    values, missing = site.attribute("imputed_value_floats"), float(site.attribute("replaced_value_float", 0.0))
    if values is None or site.dtype() != np.float32:
        return None
    gap = site.add("IsNaN", site.input()) if np.isnan(missing) else site.add("Equal", site.input(), site.number(missing))
    return site.add("Where", gap, site.stored(np.array(values, np.float32)), site.input())


def array_feature_extractor(site: Site) -> str:
    """Columns by their numbers; of one row, which has no axis for it, too."""
    shape, picked = site.shape(), site.shape(1)
    count = int(np.prod(picked))
    found = site.add("Gather", site.input(), site.reshape(site.input(1), [count]), axis=len(shape) - 1)
    return site.reshape(found, [1, count]) if len(shape) == 1 else found


def _linear(site: Site, rows: int) -> str:
    features = site.shape()[1]
    weights = _numbers(site, "coefficients").reshape(rows, features).T
    product = site.add("MatMul", _float(site), site.stored(weights))
    intercepts = site.attribute("intercepts")
    return product if intercepts is None else site.add("Add", product, site.stored(np.array(intercepts, np.float32)))


def _float(site: Site) -> str:
    return site.input() if site.dtype() == np.float32 else site.add("Cast", site.input(), to=TensorProto.FLOAT)


def _numbers(site: Site, name: str) -> Array:
    return np.array(site.attribute(name), np.float32)


RULES: Final = {
    f"ai.onnx.ml.{name}": rule
    for name, rule in (
        ("ArrayFeatureExtractor", array_feature_extractor),
        ("Binarizer", binarizer),
        ("Imputer", imputer),
        ("LinearClassifier", linear_classifier),
        ("LinearRegressor", linear_regressor),
        ("Normalizer", normalizer),
        ("Scaler", scaler),
    )
}
