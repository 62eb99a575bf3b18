"""Reads scikit-learn classifiers, regressors and pipelines that end in one, by skl2onnx. Needs the extra `sklearn`.

Pickles and joblib files run whatever code they hold when they are opened, so they are only where they are trusted; skops files
are read without trust as long as they hold nothing but scikit-learn's own types.
"""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx

from converters.errors import DataRejected, RecipeFailed, SourceRejected
from converters.graphs.observe import observe
from converters.sources.exchange import Array, Reading, Request, Samples, needed
from converters.sources.folding import fold
from converters.sources.matching import free_first_axis, match, rename

_OPSETS: Final = {"": 17, "ai.onnx.ml": 3}
_HARMLESS: Final = tuple(f"sklearn.neural_network._stochastic_optimizers.{name}" for name in ("AdamOptimizer", "SGDOptimizer"))
"""scikit-learn's own, and only numbers, though skops does not list them."""
_TOLERATED: Final = 0.02
"""A tree compares rounded numbers with thresholds that lie on training samples: a rare sample falls the other way."""


def load(request: Request) -> Any:  # noqa: ANN401  # scikit-learn is not always installed
    """The estimator. Raises `SourceRejected`, `ReaderMissing`."""
    path = Path(request.location)
    if request.kind == "skops":
        return _skops(path, trusted=request.trust_pickle)
    if not request.trust_pickle:
        raise SourceRejected(untrusted(path))
    joblib = needed("joblib", "sklearn", "a scikit-learn model")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return joblib.load(path)
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, OSError) as error:
        raise SourceRejected(f"{path} is no whole pickle: {_first(error)} Save it again with joblib.dump.") from error
    except (ImportError, AttributeError) as error:
        raise SourceRejected(
            f"{path} holds something of a package that is not here: {_first(error)} Install what it was made with."
        ) from error


def untrusted(path: Path) -> str:
    """Why a pickle is not opened, and what to do."""
    return (
        f"{path} is a pickle, which can run any code when it is opened. If you know who made it, add --trust-pickle; better: "
        "save it with skops.io.dump, or convert it to ONNX where it was trained (skl2onnx)."
    )


def _skops(path: Path, *, trusted: bool) -> Any:  # noqa: ANN401
    io = needed("skops.io", "sklearn", "a skops file")
    try:
        unknown = [name for name in io.get_untrusted_types(file=path) if name not in _HARMLESS]
    except Exception as error:  # a forged archive makes skops raise anything
        raise SourceRejected(f"{path} is no whole skops file: {_first(error)} Save it again with skops.io.dump.") from error
    if unknown and not trusted:
        raise SourceRejected(
            f"{path} holds types that skops does not vouch for: {', '.join(sorted(unknown)[:5])}. They may run code when "
            "they are loaded; if you know who made it, add --trust-pickle."
        )
    try:
        return io.load(path, trusted=[*unknown, *_HARMLESS])
    except Exception as error:
        raise SourceRejected(f"{path} cannot be loaded: {_first(error)} Save it again with skops.io.dump.") from error


def read(model: Any, samples: Samples, *, stages: bool) -> Reading:  # noqa: ANN401
    """Turn a fitted estimator into ONNX. Raises `SourceRejected`, `DataRejected`, `ReaderMissing`."""
    base = needed("sklearn.base", "sklearn", "a scikit-learn model")
    skl2onnx = needed("skl2onnx", "sklearn", "a scikit-learn model")
    if not isinstance(model, base.BaseEstimator):
        raise SourceRejected(
            f"The file holds {_what(model)}, and not a scikit-learn estimator. Save the fitted estimator or pipeline itself."
        )
    if not (base.is_classifier(model) or base.is_regressor(model)):
        raise SourceRejected(f"{type(model).__name__} is no classifier and no regressor; only these are read.")
    name = match(["X"], samples, "A scikit-learn model")["X"]
    table = _table(samples[name], name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = _answers(base, model, table, name)
        made = _to_onnx(skl2onnx, model, table)
        if _decides(model):
            _two_columns(made, before["probabilities"], table)
        kept = _outputs(made, model, before)
        seen = _stages(model, table) if stages else []
    rename(made, {made.graph.input[0].name: name})
    fold(made, tables=True)
    free_first_axis(made)
    return Reading(
        model=made,
        before=[before[output] for output in kept],
        tools={"scikit-learn": str(needed("sklearn", "sklearn", "").__version__), "skl2onnx": str(skl2onnx.__version__)},
        stages=seen,
        tolerated=_TOLERATED,
        classes=_classes(model),
    )


def _table(values: Array, name: str) -> Array:
    if values.ndim != 2:
        raise DataRejected(f"{name!r} has shape {list(values.shape)}; scikit-learn takes [samples, features].")
    if values.dtype != np.float32:
        raise DataRejected(f"{name!r} is {values.dtype.name}; the converted model takes float32: .astype('float32').")
    return values


def _answers(base: Any, model: Any, table: Array, name: str) -> dict[str, Array]:  # noqa: ANN401
    try:
        if base.is_regressor(model):
            return {"variable": np.asarray(model.predict(table), np.float32).reshape(len(table), -1)}
        found = {"label": np.asarray(model.predict(table))}
        scores = getattr(model, "predict_proba", None) or model.decision_function
        found["probabilities"] = np.asarray(scores(table), np.float32)
        if _decides(model):
            found["probabilities"] = np.stack([-found["probabilities"], found["probabilities"]], axis=1)
    except Exception as error:  # a pipeline raises what its steps raise
        raise DataRejected(f"The model does not run on {name!r}: {_first(error)}") from error
    return found


def _decides(model: Any) -> bool:  # noqa: ANN401
    """Whether it tells two classes apart by one number, above 0 for the second: a support vector machine, and others."""
    return not hasattr(model, "predict_proba") and len(getattr(model, "classes_", ())) == 2


def _two_columns(made: onnx.ModelProto, scores: Array, table: Array) -> None:
    """Let the graph score each class, in place: skl2onnx gives one column, or both, or both the wrong way round."""
    told = made.graph.output[1].name
    try:
        (found,) = observe(made, [told], [{made.graph.input[0].name: table}])
    except RecipeFailed:
        return  # what it answers is proved later, and then in words
    column = int(np.abs(found[told] - scores[:, 1:]).max(axis=0).argmin())
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.array([column], np.int64), "edgeward_column"))
    second, first, both = (f"{told}_{each}" for each in ("second", "first", "both"))
    made.graph.node.extend(
        [
            onnx.helper.make_node("Gather", [told, "edgeward_column"], [second], axis=1),
            onnx.helper.make_node("Neg", [second], [first]),
            onnx.helper.make_node("Concat", [first, second], [both], axis=1),
        ]
    )
    made.graph.output[1].CopyFrom(onnx.helper.make_tensor_value_info(both, onnx.TensorProto.FLOAT, [None, 2]))


def _to_onnx(skl2onnx: Any, model: Any, table: Array) -> onnx.ModelProto:  # noqa: ANN401
    step = getattr(model, "steps", [("", model)])[-1][1]
    options: dict[Any, Any] = {"zipmap": False} if hasattr(model, "classes_") else {}
    if type(step).__name__ == "LinearSVC":  # its scores are an array as they are, and it does not know that option
        options = {type(step): {}}
    try:
        made = skl2onnx.to_onnx(model, table[:1], options=options, target_opset=_OPSETS)
    except Exception as error:  # skl2onnx raises many kinds, among them bare ones
        raise SourceRejected(
            f"skl2onnx {skl2onnx.__version__} has no ONNX form for this {type(step).__name__}: {_first(error)} Train another "
            "kind of model, or convert it to ONNX by other means."
        ) from error
    known = {each.domain: each.version for each in made.opset_import}  # skl2onnx may name a domain twice
    del made.opset_import[:]
    made.opset_import.extend(onnx.helper.make_opsetid(domain, version) for domain, version in known.items())
    return onnx.ModelProto.FromString(made.SerializeToString())


def _outputs(made: onnx.ModelProto, model: Any, before: dict[str, Array]) -> list[str]:  # noqa: ANN401
    """Which outputs stay, in place: the scores alone where they tell the class as the model does, else also the class."""
    names = [value.name for value in made.graph.output]
    if len(names) == 1:
        return ["variable"]
    keep = ["probabilities"]
    classes = np.asarray(model.classes_)
    scores = before["probabilities"]
    told = None if scores.ndim != 2 else classes[scores.argmax(axis=1)]
    numbered = bool(np.array_equal(classes, np.arange(len(classes))))
    if classes.dtype.kind in "iu" and not (numbered and told is not None and np.array_equal(told, before["label"])):
        keep = ["label", "probabilities"]
    values = {("label", "probabilities")[at]: value for at, value in enumerate(made.graph.output)}
    kept = [onnx.ValueInfoProto.FromString(values[name].SerializeToString()) for name in keep]
    del made.graph.output[:]
    made.graph.output.extend(kept)
    rename(made, {value.name: name for name, value in zip(keep, kept, strict=True)})
    _prune(made)
    return keep


def _prune(model: onnx.ModelProto) -> None:
    """Drop what computes nothing that is asked for any more, in place."""
    needed_values = {value.name for value in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):
        if needed_values & set(node.output):
            kept.append(node)
            needed_values |= set(node.input)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(kept)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    weights = [onnx.TensorProto.FromString(t.SerializeToString()) for t in model.graph.initializer if t.name in needed_values]
    del model.graph.initializer[:]
    model.graph.initializer.extend(weights)


def _classes(model: Any) -> tuple[str, ...]:  # noqa: ANN401
    found = getattr(model, "classes_", None)
    return tuple(map(str, found)) if found is not None and np.asarray(found).dtype.kind in "UO" else ()


def _stages(model: Any, table: Array) -> list[tuple[str, Array]]:  # noqa: ANN401
    """What each step of a pipeline hands to the next."""
    found: list[tuple[str, Array]] = []
    values: Any = table
    for name, step in getattr(model, "steps", [])[:-1]:
        values = values if step in (None, "passthrough") else step.transform(values)
        dense = values.toarray() if hasattr(values, "toarray") else np.asarray(values)
        found.append((f"{type(step).__name__} {name!r}", dense))
    return found


def _what(value: Any) -> str:  # noqa: ANN401
    name = type(value).__name__
    return f"an {name}" if name[:1].lower() in "aeiou" else f"a {name}"


def _first(error: BaseException) -> str:
    lines = (str(error).strip() or type(error).__name__).splitlines()
    return f"{lines[0][:300].rstrip('.')}."
