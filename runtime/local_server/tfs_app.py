"""TensorFlow Serving's REST API over HTTP: its routes under `/v1`, for clients that were written for it.

`:predict`, `:classify` and `:regress`, the model's status and its metadata. What a request means is
`runtime.local_server.tfs`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fleet_protocol.tensors import TensorSpec
from runtime.hosting.host import Inference
from runtime.local_server import tfs
from runtime.local_server.answering import Answering, Question, Work
from runtime.local_server.exchange import Exchange, Response, json_response
from runtime.local_server.tfs_questions import number_output, predicted, scores_output

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
        served = await self._answering.described(name, version)
        if not rest:
            return json_response(tfs.status(served.identity.version))
        return json_response(tfs.metadata(name, served.identity.version, served.inputs, served.outputs))


def _verb(part: str) -> tuple[str, str | None]:
    """`digits:predict` taken apart."""
    name, colon, verb = part.partition(":")
    return name, verb if colon else None


def _predict(question: Question) -> Response:
    body = bytes(question.body)
    request = tfs.decode_predict(body, _given(question, body))
    inference = predicted(question, request.inputs)
    return Response(200, tfs.encode_predict(inference.outputs, rows=request.rows))


def _classify(question: Question) -> Response:
    output = scores_output(question)
    inference = _on_examples(question)
    return Response(200, tfs.encode_classification(inference.outputs[output.name], inference.labels))


def _regress(question: Question) -> Response:
    output = number_output(question)
    return Response(200, tfs.encode_regression(_on_examples(question).outputs[output.name]))


def _on_examples(question: Question) -> Inference:
    body = bytes(question.body)
    return predicted(question, tfs.decode_examples(body, _given(question, body)))


def _given(question: Question, body: bytes) -> Sequence[TensorSpec]:
    processor = question.model.processor
    return tfs.given_as(body, question.model.inputs, processor.encoded if processor else ())


_WORK: Final[dict[str | None, Work]] = {"predict": _predict, "classify": _classify, "regress": _regress}
