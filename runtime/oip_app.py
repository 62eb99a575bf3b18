"""The Open Inference Protocol v2 over HTTP: its routes under `/v2`, as tritonclient asks for them.

Base protocol and the extensions in `EXTENSIONS`. What a request means is `runtime.oip`'s, where it runs `runtime.answering`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import Final, TypeVar

import msgspec

from fleet_protocol.tensors import DataType, TensorSpec
from runtime import oip, oip_binary
from runtime.answering import Answering, Question
from runtime.errors import MalformedRequest, ModelRejected, NotServing
from runtime.exchange import Exchange, Header, Refused, RefusedUnread, Response, json_response
from runtime.host import Served
from runtime.repository import Repository
from runtime.serving_statistics import Spent, Totals
from runtime.shadow import Shadow
from runtime.shadow_record import ShadowRecord

NAME: Final = "edgeward"
PROTOCOL_VERSION: Final = "2"
EXTENSIONS: Final = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "statistics",
)
RAW_TYPE: Final = b"application/octet-stream"

_CONFIG_TYPES: Final[dict[DataType, str]] = {"BYTES": "TYPE_STRING"}
"""Model configurations call a datatype `TYPE_` and its name, but for these."""


class _IndexRequest(msgspec.Struct, frozen=True):
    ready: bool = False


class _LoadRequest(msgspec.Struct, frozen=True):
    parameters: dict[str, msgspec.Raw] = {}


_Small = TypeVar("_Small", _IndexRequest, _LoadRequest)


class OpenInference:
    """Answers what begins with `/v2`. Without a repository, clients cannot load or unload."""

    def __init__(self, answering: Answering, repository: Repository | None) -> None:
        self._answering = answering
        self._host = answering.host
        self._repository = repository

    async def respond(self, exchange: Exchange) -> Response:
        """The response to one request. Raises `Refused` or `Gone`."""
        match exchange.parts[1:]:
            case ["models", name, *rest] if rest or name != "stats":
                return await self._model(exchange, name, rest)
            case ["repository", *rest]:
                return await self._repository_asked(exchange, rest)
        return self._server(exchange)

    def _server(self, exchange: Exchange) -> Response:
        match exchange.parts[1:]:
            case []:
                answer = json_response({"name": NAME, "version": PROTOCOL_VERSION, "extensions": EXTENSIONS})
            case ["health", "live"]:
                answer = json_response({"live": True})
            case ["health", "ready"]:
                ready = bool(self._host.identities())
                answer = json_response({"ready": ready}, 200 if ready else 503)
            case ["models", "stats"]:
                names = [identity.model for identity in self._host.identities()]
                answer = self._statistics([self._answering.describe(name, None) for name in names])
            case _:
                raise exchange.nothing_here("The Open Inference Protocol begins at /v2, TensorFlow Serving's API at /v1.")
        exchange.only("GET")
        return answer

    async def _model(self, exchange: Exchange, name: str, rest: list[str]) -> Response:
        version = None
        if len(rest) >= 2 and rest[0] == "versions":
            version, rest = rest[1], rest[2:]
        if rest == ["infer"]:
            exchange.only("POST")
            return await self._infer(exchange, name, version)
        if rest not in ([], ["ready"], ["config"], ["stats"], ["shadow"]):
            raise exchange.nothing_here("A model has /infer, /ready, /config, /stats and /shadow.")
        exchange.only("GET")
        served = self._answering.describe(name, version)
        match rest:
            case ["ready"]:
                return json_response({"name": name, "ready": True})
            case ["config"]:
                return json_response(_config(served))
            case ["stats"]:
                return self._statistics([served])
            case ["shadow"]:
                return json_response(self._shadow(name))
        return json_response(_metadata(served))

    def _shadow(self, name: str) -> ShadowRecord:
        observer = self._host.observer(name)
        if not isinstance(observer, Shadow):
            raise Refused(404, f"{name} has no shadow. One begins with `edgeward serve … --shadow CANDIDATE`.")
        return observer.record()

    async def _infer(self, exchange: Exchange, name: str, version: str | None) -> Response:
        said = exchange.headers.get(oip_binary.HEADER)
        if said is None:
            return await self._answering.answer(exchange, name, version, partial(_answer, header_length=None))
        try:
            length = oip_binary.header_length(said)
        except MalformedRequest as error:
            raise RefusedUnread(400, str(error)) from error
        work = partial(_answer, header_length=length)
        return await self._answering.answer(exchange, name, version, work, lead_in=oip_binary.lead_in(length))

    def _statistics(self, models: Iterable[Served]) -> Response:
        totals = self._answering.statistics
        return json_response(
            {"model_stats": [_stats(each, totals.of(each.identity.model, each.identity.version)) for each in models]}
        )

    async def _repository_asked(self, exchange: Exchange, rest: list[str]) -> Response:
        match rest:
            case ["index"]:
                exchange.only("POST")
                asked = await self._small(exchange, _IndexRequest)
                return json_response([each for each in self._index() if not asked.ready or each["state"] == "READY"])
            case ["models", name, "load" | "unload" as change]:
                exchange.only("POST")
                asked_for = await self._small(exchange, _LoadRequest)
                return await self._change(name, change, asked_for)
        raise exchange.nothing_here("The repository has /index, and /models/{name}/load and /unload.")

    def _index(self) -> list[dict[str, str]]:
        if self._repository is None:
            ready = [_index_entry(each.model, each.version, ready=True) for each in self._host.identities()]
            return sorted(ready, key=lambda each: each["name"])
        return [_index_entry(each.name, each.version, ready=each.ready) for each in self._repository.index()]

    async def _change(self, name: str, change: str, asked: _LoadRequest) -> Response:
        repository = self._repository
        if repository is None:
            raise Refused(
                403, f"What runs here is decided by whoever started this server (on a device: the agent). No {change}."
            )
        if change == "load" and asked.parameters:
            raise Refused(
                400, f"A load takes no parameters here ({', '.join(asked.parameters)}): the bundle says how it is run."
            )
        work = repository.load if change == "load" else repository.unload
        try:
            await asyncio.get_running_loop().run_in_executor(self._answering.threads, work, name)
        except NotServing as error:
            raise Refused(404, str(error)) from error
        except ModelRejected as error:
            raise Refused(400, str(error)) from error
        return json_response({})

    async def _small(self, exchange: Exchange, kind: type[_Small]) -> _Small:
        """A body of a few settings; none is all defaults."""
        body = await self._answering.bodies.read(exchange)
        try:
            return msgspec.json.decode(body or b"{}", type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Refused(400, f"The body is not what {exchange.path} takes: {error}.") from error
        finally:
            self._answering.bodies.release(body)


def _answer(question: Question, *, header_length: int | None) -> Response:
    request = oip.decode_request(question.body, header_length=header_length)
    inference = question.infer(request.inputs)
    answer = oip.encode_response(
        inference.outputs,
        model=inference.identity.model,
        version=inference.identity.version,
        request=request,
        labels=inference.labels,
        finite=inference.finite,
    )
    if answer.header_length is None:
        return Response(200, answer.content)
    header: Header = (oip_binary.HEADER, str(answer.header_length).encode())
    return Response(200, answer.content, RAW_TYPE, (header,))


def _metadata(served: Served) -> dict[str, object]:
    return {
        "name": served.identity.model,
        "versions": [served.identity.version],
        "platform": served.engine,
        "inputs": _specs(served.inputs),
        "outputs": _specs(served.outputs),
    }


def _specs(specs: Iterable[TensorSpec]) -> list[dict[str, object]]:
    return [{"name": spec.name, "datatype": spec.datatype, "shape": spec.shape} for spec in specs]


def _config(served: Served) -> dict[str, object]:
    """As Triton writes a model's configuration. Shapes are whole, the batch too, so `max_batch_size` is 0."""
    return {
        "name": served.identity.model,
        "platform": served.engine,
        "backend": served.engine.split()[0].rstrip(","),
        "version_policy": {"specific": {"versions": [served.identity.version]}},
        "max_batch_size": 0,
        "input": _config_tensors(served.inputs),
        "output": _config_tensors(served.outputs),
        "parameters": {
            "variant": {"string_value": served.identity.variant},
            "manifest": {"string_value": served.identity.manifest},
        },
    }


def _config_tensors(specs: Iterable[TensorSpec]) -> list[dict[str, object]]:
    return [
        {
            "name": spec.name,
            "data_type": _CONFIG_TYPES.get(spec.datatype, f"TYPE_{spec.datatype}"),
            "format": "FORMAT_NONE",
            "dims": spec.shape,
        }
        for spec in specs
    ]


def _stats(served: Served, totals: Totals) -> dict[str, object]:
    answered = totals.outcomes["answered"]
    spent: Spent = totals.spent
    failed = sum(count for outcome, count in totals.outcomes.items() if outcome != "answered")
    return {
        "name": served.identity.model,
        "version": served.identity.version,
        "last_inference": int(totals.last * 1000),
        "inference_count": totals.samples,
        "execution_count": answered,
        "inference_stats": {
            "success": {"count": answered, "ns": spent.total()},
            "fail": {"count": failed, "ns": totals.failed_ns},
            "queue": {"count": answered, "ns": spent.queue},
            "compute_input": {"count": answered, "ns": spent.decode},
            "compute_infer": {"count": answered, "ns": spent.infer},
            "compute_output": {"count": answered, "ns": spent.encode},
            "cache_hit": {"count": 0, "ns": 0},
            "cache_miss": {"count": 0, "ns": 0},
        },
        "batch_stats": [],
    }


def _index_entry(name: str, version: str, *, ready: bool) -> dict[str, str]:
    if ready:
        return {"name": name, "version": version, "state": "READY", "reason": ""}
    return {"name": name, "version": version, "state": "UNAVAILABLE", "reason": "not loaded"}
