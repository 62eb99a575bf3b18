"""What TensorFlow Serving's API asks of a model, whichever way it travels: which output classifies, which regresses."""

from __future__ import annotations

from collections.abc import Mapping

from fleet_protocol.tensors import TensorSpec
from runtime.engine import Array
from runtime.errors import InferenceFailed, MalformedRequest
from runtime.hosting.room import Inference
from runtime.hosting.usage import looks_like_scores
from runtime.local_server.answering import Question


def predicted(question: Question, inputs: Mapping[str, Array]) -> Inference:
    """The model's answer, all of it finite: the API cannot flag what is not. Raises what `Question.infer` raises."""
    inference = question.infer(inputs)
    if not inference.finite:
        identity = inference.identity
        raise InferenceFailed(f"{identity.model} {identity.version} answered NaN or infinity, which this API cannot flag.")
    return inference


def scores_output(question: Question) -> TensorSpec:
    """The output with a score for each class. Raises `MalformedRequest` when there is none."""
    for spec in question.model.outputs:
        if looks_like_scores(spec):
            return spec
    raise MalformedRequest(f"{question.identity.model} has no class scores. Ask it with predict.")


def number_output(question: Question) -> TensorSpec:
    """The output with one number for each sample. Raises `MalformedRequest` when there is none."""
    for spec in question.model.outputs:
        if _is_one_number(spec):
            return spec
    raise MalformedRequest(f"{question.identity.model} does not answer one number for a sample. Ask it with predict.")


def _is_one_number(spec: TensorSpec) -> bool:
    return spec.datatype not in ("BOOL", "BYTES") and (len(spec.shape) == 1 or (len(spec.shape) == 2 and spec.shape[1] == 1))
