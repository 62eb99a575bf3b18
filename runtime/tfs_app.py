"""TensorFlow Serving's REST API over HTTP: its routes under `/v1`, for clients that were written for it.

`:predict`, `:classify` and `:regress`, the model's status and its metadata. What a request means is `runtime.tfs`'s.
"""

from __future__ import annotations

from typing import Final

from fleet_protocol.tensors import TensorSpec
from runtime import tfs
from runtime.answering import Answering, Question, Work
from runtime.engine import Array
from runtime.errors import InferenceFailed, MalformedRequest
from runtime.exchange import Exchange, Response, json_response
from runtime.host import Inference
from runtime.usage import looks_like_scores

_HINT: Final = (
    "TensorFlow Serving's API is /v1/models/{name}[/versions/{version}], with :predict, :classify, :regress or /metadata."
)


class TensorFlowServing:
    """Answers what begins with `/v1`."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering

    async def respond(self, exchange: Exchange) -> Response:
        """The response to one request. Raises `Refused` or `Gone`."""
        version: str | None = None
        match exchange.parts[1:]:
            case ["models", name, "versions", last, *rest]:
                version, verb = _verb(last)
            case ["models", last, *rest]:
                name, verb = _verb(last)
            case _:
                raise exchange.nothing_here(_HINT)
        if rest == [] and verb in _WORK:
            exchange.only("POST")
            return await self._answering.answer(exchange, name, version, _WORK[verb])
        if verb is not None or rest not in ([], ["metadata"]):
            raise exchange.nothing_here(_HINT)
        exchange.only("GET")
        served = self._answering.describe(name, version)
        if not rest:
            return json_response(tfs.status(served.identity.version))
        return json_response(tfs.metadata(name, served.identity.version, served.inputs, served.outputs))


def _verb(part: str) -> tuple[str, str | None]:
    """`digits:predict` taken apart."""
    name, colon, verb = part.partition(":")
    return name, verb if colon else None


def _predict(question: Question) -> Response:
    request = tfs.decode_predict(bytes(question.body), question.served.inputs)
    inference = _finite(question.infer(request.inputs))
    return Response(200, tfs.encode_predict(inference.outputs, rows=request.rows))


def _classify(question: Question) -> Response:
    spec = next((spec for spec in question.served.outputs if looks_like_scores(spec)), None)
    if spec is None:
        raise MalformedRequest(f"{question.identity.model} has no class scores. Ask it with :predict.")
    inference = _on_examples(question)
    return Response(200, tfs.encode_classification(inference.outputs[spec.name], inference.labels))


def _regress(question: Question) -> Response:
    spec = next((spec for spec in question.served.outputs if _is_one_number(spec)), None)
    if spec is None:
        raise MalformedRequest(f"{question.identity.model} does not answer one number for a sample. Ask it with :predict.")
    values: Array = _on_examples(question).outputs[spec.name]
    return Response(200, tfs.encode_regression(values))


def _on_examples(question: Question) -> Inference:
    return _finite(question.infer(tfs.decode_examples(bytes(question.body), question.served.inputs)))


def _finite(inference: Inference) -> Inference:
    if not inference.finite:
        identity = inference.identity
        raise InferenceFailed(f"{identity.model} {identity.version} answered NaN or infinity, which JSON cannot say.")
    return inference


def _is_one_number(spec: TensorSpec) -> bool:
    return spec.datatype not in ("BOOL", "BYTES") and (len(spec.shape) == 1 or (len(spec.shape) == 2 and spec.shape[1] == 1))


_WORK: Final[dict[str | None, Work]] = {"predict": _predict, "classify": _classify, "regress": _regress}
