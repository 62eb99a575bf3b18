"""The local server's gRPC methods: what each path answers, who may ask, how refusals become gRPC's status codes.

The Open Inference Protocol's `GRPCInferenceService` and TensorFlow Serving's `PredictionService` and `ModelService`. What a
message means is `oip_grpc`'s and `tfs_grpc`'s, what is said of models `oip_facts`', where a request runs `answering`'s: the
decisions are HTTP's. Messages come and go as bytes; this module does not know grpcio, which `grpc_server` binds it to.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, Protocol

from runtime.errors import MalformedRequest
from runtime.hosting.experiment import KEY_HEADER
from runtime.hosting.repository import Repository
from runtime.local_server import bearer, oip_facts, oip_grpc, tfs_grpc
from runtime.local_server.answering import INLINE_BYTES, NO_WISHES, Answering, Question, Wishes, Work, wishes_of
from runtime.local_server.exchange import BODY_TIMEOUT_S, Refused, Response
from runtime.local_server.grpc_messages import filled, message_class, parsed
from runtime.local_server.oip_facts import Change, OpenInferenceFacts
from runtime.local_server.patience import Patience
from runtime.local_server.tfs_questions import number_output, predicted, scores_output
from runtime.local_server.traces import trace_of

log = logging.getLogger(__name__)

Message = Any

OPEN_INFERENCE: Final = "inference.GRPCInferenceService"
PREDICTION: Final = "tensorflow.serving.PredictionService"
MODELS: Final = "tensorflow.serving.ModelService"

CODES: Final[Mapping[int, str]] = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    413: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""By the HTTP status of the same refusal."""
STREAM_IDLE_S: Final = 300.0
"""A stream on which nothing comes for so long ends."""
_KEY: Final = KEY_HEADER.decode()
_OPEN_TO_ALL: Final = (f"/{OPEN_INFERENCE}/ServerLive", f"/{OPEN_INFERENCE}/ServerReady")


class Call(Protocol):
    """One call, as `grpc.aio.ServicerContext` has it."""

    def invocation_metadata(self) -> Any:  # noqa: ANN401  # pairs of name and value
        """What came with it."""
        ...

    def set_trailing_metadata(self, trailing: tuple[tuple[str, str], ...]) -> None:
        """What goes with its status."""
        ...

    def time_remaining(self) -> float | None:
        """Seconds until its deadline; None: it has none."""
        ...


class Asked:
    """A call, and what came with it: grpcio makes its metadata anew each time it is asked for it."""

    __slots__ = ("_metadata", "call")

    def __init__(self, call: Call) -> None:
        self.call = call
        self._metadata = dict(call.invocation_metadata() or ())

    def said(self, name: str) -> str:
        """The text of that name; empty when there is none."""
        value = self._metadata.get(name)
        return value if isinstance(value, str) else ""


Read = Callable[[], Awaitable[object]]
"""The next message of a call as bytes; something else when the client sends no more."""
Method = Callable[[bytes, Asked], Awaitable[bytes]]


class GrpcRefusal(Exception):
    """A call that ends with a status other than OK."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class GrpcApplication:
    """Answers for what `answering` asks. Without a repository, clients cannot load or unload; without a token, all may ask."""

    def __init__(self, answering: Answering, repository: Repository | None, *, token: str | None) -> None:
        self._answering = answering
        self._patience = Patience()
        self._token = None if token is None else token.encode()
        methods = (_OpenInference(answering, repository).methods(), _TensorFlowServing(answering).methods())
        self.methods: dict[str, Method] = {path: method for each in methods for path, method in each.items()}
        """What answers one message with one, by path."""
        self.stream = f"/{OPEN_INFERENCE}/ModelStreamInfer"
        """The path of the only method that answers many with many: `answer_stream`."""

    async def answer(self, path: str, read: Read, call: Call) -> bytes:
        """The response to one call. Raises `GrpcRefusal`."""
        asked = Asked(call)
        trace = self._trace(asked)
        try:
            self._check_token(path, asked)
            return await self._answer_one(self.methods[path], await self._next(read, BODY_TIMEOUT_S), asked)
        except Refused as refusal:
            raise self._refused(refusal) from refusal
        except Exception as error:  # whatever it was, the next request must work
            raise self._broken(error, path, trace) from error

    async def answer_stream(self, read: Read, call: Call) -> AsyncIterator[bytes]:
        """A response to each request of a stream, in order; a refused one gets its error and the stream goes on."""
        asked = Asked(call)
        trace = self._trace(asked)
        infer, wrapped = self.methods[f"/{OPEN_INFERENCE}/ModelInfer"], message_class("inference.ModelStreamInferResponse")
        try:
            self._check_token(self.stream, asked)
            while (body := await self._next(read, STREAM_IDLE_S)) is not None:
                try:
                    answer = await self._answer_one(infer, body, asked)
                    response = wrapped(infer_response=parsed(oip_grpc.InferAnswer, answer))
                except Refused as refusal:
                    response = wrapped(error_message=self._refused(refusal).args[0])
                yield response.SerializeToString()
        except Refused as refusal:
            raise self._refused(refusal) from refusal
        except Exception as error:
            raise self._broken(error, self.stream, trace) from error

    async def _next(self, read: Read, patience: float) -> bytes | None:
        try:
            message = await self._patience.wait(read(), patience)
        except TimeoutError as error:
            raise Refused(408, f"No whole message arrived within {patience:g} s.") from error
        return message if isinstance(message, bytes) else None

    async def _answer_one(self, method: Method, body: bytes | None, asked: Asked) -> bytes:
        if body is None:
            raise Refused(400, "The call ended before a whole message of at most the allowed size came.")
        bodies = self._answering.bodies
        bodies.hold(len(body))
        try:
            return await method(body, asked)
        except MalformedRequest as error:
            raise Refused(400, str(error)) from error
        finally:
            bodies.release(body)

    def _check_token(self, path: str, asked: Asked) -> None:
        if self._token is None or path in _OPEN_TO_ALL:
            return
        if not bearer.shows(asked.said("authorization").encode(), self._token):
            raise Refused(401, "This server wants a token in the metadata: authorization: Bearer <token>.")

    def _trace(self, asked: Asked) -> str | None:
        said = asked.said("traceparent")
        trace = trace_of(said.encode()) if said else None
        if trace is None:
            return None
        asked.call.set_trailing_metadata((("traceparent", trace.decode()),))
        return trace.decode()

    def _refused(self, refusal: Refused) -> GrpcRefusal:
        status = refusal.response.status
        self._answering.statistics.refuse(status)
        return GrpcRefusal(CODES.get(status, "UNKNOWN"), str(refusal))

    def _broken(self, error: Exception, path: str, trace: str | None) -> GrpcRefusal:
        log.error("a call of %s failed (traceparent %s)", path, trace, exc_info=error)
        return self._refused(Refused(500, "The server failed on this request; its log says how."))


class _OpenInference:
    """The Open Inference Protocol's methods."""

    def __init__(self, answering: Answering, repository: Repository | None) -> None:
        self._answering = answering
        self._facts = OpenInferenceFacts(answering, repository)

    def methods(self) -> dict[str, Method]:
        """By path."""
        told: dict[str, Callable[[Message], Awaitable[object]]] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ServerMetadata": self._server,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._metadata,
            "ModelConfig": self._config,
            "ModelStatistics": self._statistics,
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": partial(self._change, change="load"),
            "RepositoryModelUnload": partial(self._change, change="unload"),
        }
        methods: dict[str, Method] = {f"/{OPEN_INFERENCE}/{name}": _Telling(name, tell) for name, tell in told.items()}
        methods[f"/{OPEN_INFERENCE}/ModelInfer"] = self._infer
        return methods

    async def _infer(self, body: bytes, asked: Asked) -> bytes:
        message = await _read(self._answering, oip_grpc.InferMessage, body)
        work = partial(_infer, message=message)
        wished = oip_grpc.read_wishes(message)
        wishes = _wishes(asked, NO_WISHES if wished is None else wishes_of(*wished))
        version = message.model_version or None
        return (await self._answering.ask(body, message.model_name, version, work, wishes)).body

    async def _live(self, _asked: Message) -> object:
        return {"live": True}

    async def _ready(self, _asked: Message) -> object:
        return {"ready": self._facts.ready()}

    async def _server(self, _asked: Message) -> object:
        return oip_facts.server()

    async def _model_ready(self, asked: Message) -> object:
        try:
            return {"ready": self._facts.model_ready(asked.name, asked.version or None)}
        except Refused as refusal:
            if refusal.response.status != 404:
                raise
            return {"ready": False}

    async def _metadata(self, asked: Message) -> object:
        return oip_facts.metadata(await self._answering.described(asked.name, asked.version or None))

    async def _config(self, asked: Message) -> object:
        return {"config": oip_facts.config(await self._answering.described(asked.name, asked.version or None))}

    async def _statistics(self, asked: Message) -> object:
        if not asked.name:
            return self._facts.all_statistics()
        return self._facts.statistics([await self._answering.described(asked.name, asked.version or None)])

    async def _index(self, asked: Message) -> object:
        return {"models": self._facts.index(only_ready=asked.ready)}

    async def _change(self, asked: Message, *, change: Change) -> object:
        await self._facts.change(asked.model_name, change, list(asked.parameters))
        return {}


class _Telling:
    """A method that tells facts: its response is filled from plain data."""

    def __init__(self, name: str, tell: Callable[[Message], Awaitable[object]]) -> None:
        self._asked = message_class(f"inference.{name}Request")
        self._answer = message_class(f"inference.{name}Response")
        self._tell = tell

    async def __call__(self, body: bytes, _asked: Asked) -> bytes:
        facts = await self._tell(parsed(self._asked, body))
        return bytes(filled(self._answer(), facts).SerializeToString())


class _TensorFlowServing:
    """TensorFlow Serving's methods."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering

    def methods(self) -> dict[str, Method]:
        """By path."""
        return {
            f"/{PREDICTION}/Predict": partial(self._ask, kind=tfs_grpc.PredictMessage, work=_predict),
            f"/{PREDICTION}/Classify": partial(self._ask, kind=tfs_grpc.ClassifyMessage, work=_classify),
            f"/{PREDICTION}/Regress": partial(self._ask, kind=tfs_grpc.RegressMessage, work=_regress),
            f"/{PREDICTION}/GetModelMetadata": self._metadata,
            f"/{MODELS}/GetModelStatus": self._status,
        }

    async def _ask(self, body: bytes, asked: Asked, *, kind: Message, work: Callable[..., Response]) -> bytes:
        message = await _read(self._answering, kind, body)
        spec = message.model_spec
        bound: Work = partial(work, message=message)
        return (await self._answering.ask(body, spec.name, tfs_grpc.asked_version(spec), bound, _wishes(asked))).body

    async def _metadata(self, body: bytes, _asked: Asked) -> bytes:
        message = parsed(tfs_grpc.MetadataMessage, body)
        unknown = set(message.metadata_field) - {tfs_grpc.SIGNATURES}
        if unknown or not message.metadata_field:
            raise Refused(400, f"metadata_field has to be {tfs_grpc.SIGNATURES!r}, and nothing else.")
        served = await self._answering.described(message.model_spec.name, tfs_grpc.asked_version(message.model_spec))
        return tfs_grpc.encode_metadata(served.identity, served.inputs, served.outputs)

    async def _status(self, body: bytes, _asked: Asked) -> bytes:
        spec = parsed(tfs_grpc.StatusMessage, body).model_spec
        served = await self._answering.described(spec.name, tfs_grpc.asked_version(spec))
        return tfs_grpc.encode_status(served.identity)


async def _read(answering: Answering, kind: Message, body: bytes) -> Message:
    """The message in `body`; a large one is read on another thread."""
    if len(body) <= INLINE_BYTES:
        return parsed(kind, body)
    return await asyncio.get_running_loop().run_in_executor(answering.threads, parsed, kind, body)


def _wishes(asked: Asked, wishes: Wishes = NO_WISHES) -> Wishes:
    """What the message says of itself; where it says nothing of its time, the call's deadline. A key in the metadata counts."""
    timeout_s = asked.call.time_remaining() if wishes.timeout_s is None else wishes.timeout_s
    return Wishes(timeout_s, wishes.priority, asked.said(_KEY) or wishes.key)


def _infer(question: Question, *, message: Message) -> Response:
    request = oip_grpc.decode_request(message)
    inference = question.infer(request.inputs, raw=request.raw, results=request.results)
    return Response(200, oip_grpc.encode_response(inference, message, request))


def _predict(question: Question, *, message: Message) -> Response:
    inference = predicted(question, tfs_grpc.decode_predict(message))
    return Response(200, tfs_grpc.encode_predict(inference, message.output_filter))


def _classify(question: Question, *, message: Message) -> Response:
    output = scores_output(question).name
    inference = predicted(question, tfs_grpc.decode_examples(message, question.model.inputs))
    return Response(200, tfs_grpc.encode_classification(inference, output))


def _regress(question: Question, *, message: Message) -> Response:
    output = number_output(question).name
    inference = predicted(question, tfs_grpc.decode_examples(message, question.model.inputs))
    return Response(200, tfs_grpc.encode_regression(inference, output))
