"""The Open Inference Protocol v2 over HTTP: its routes under `/v2`, as tritonclient asks for them.

Base protocol and the extensions in `EXTENSIONS`. What a request means is `runtime.local_server.oip`'s, where it runs
`runtime.local_server.answering`'s.
"""

from __future__ import annotations

from functools import partial
from typing import Final, TypeVar

import msgspec

from runtime import oip_binary
from runtime.errors import MalformedRequest
from runtime.hosting.repository import Repository
from runtime.local_server import oip, oip_facts
from runtime.local_server.answering import NO_WISHES, Answering, Question, Wishes, wishes_of
from runtime.local_server.exchange import Body, Exchange, Header, Refused, RefusedUnread, Response, json_response
from runtime.local_server.oip_facts import OpenInferenceFacts
from runtime.shadowing.shadow_record import Recording, ShadowRecord

RAW_TYPE: Final = b"application/octet-stream"


class _IndexRequest(msgspec.Struct, frozen=True):
    ready: bool = False


class _LoadRequest(msgspec.Struct, frozen=True):
    parameters: dict[str, msgspec.Raw] = {}


_Small = TypeVar("_Small", _IndexRequest, _LoadRequest)


class OpenInference:
    """Answers what begins with `/v2`. Without a repository, clients cannot load or unload."""

    def __init__(self, answering: Answering, repository: Repository | None) -> None:
        self._answering = answering
        self._facts = OpenInferenceFacts(answering, repository)

    async def respond(self, exchange: Exchange) -> Response:
        """The response to one request. Raises `Refused` or `Gone`."""
        match exchange.parts[1:]:
            case ["models", name, "infer"]:
                return await self._infer(exchange, name, None)
            case ["models", name, "versions", version, "infer"]:
                return await self._infer(exchange, name, version)
            case ["models", name, *rest] if rest or name != "stats":
                return await self._model(exchange, name, rest)
            case ["repository", *rest]:
                return await self._repository_asked(exchange, rest)
        return self._server(exchange)

    def _server(self, exchange: Exchange) -> Response:
        match exchange.parts[1:]:
            case [] | [""]:  # the protocol's OpenAPI document says `/v2/`
                answer = json_response(oip_facts.server())
            case ["health", "live"]:
                answer = json_response({"live": True})
            case ["health", "ready"]:
                ready = self._facts.ready()
                answer = json_response({"ready": ready}, 200 if ready else 503)
            case ["models", "stats"]:
                answer = json_response(self._facts.all_statistics())
            case _:
                raise exchange.nothing_here("The Open Inference Protocol begins at /v2, TensorFlow Serving's API at /v1.")
        exchange.only("GET")
        return answer

    async def _model(self, exchange: Exchange, name: str, rest: list[str]) -> Response:
        version = None
        if len(rest) >= 2 and rest[0] == "versions":
            version, rest = rest[1], rest[2:]
        if rest not in ([], ["ready"], ["config"], ["stats"], ["shadow"]):
            raise exchange.nothing_here("A model has /infer, /ready, /config, /stats and /shadow.")
        exchange.only("GET")
        if rest == ["ready"]:
            ready = self._facts.model_ready(name, version)
            return json_response({"name": name, "ready": ready}, 200 if ready else 503)
        served = await self._answering.described(name, version)
        match rest:
            case ["config"]:
                return json_response(oip_facts.config(served))
            case ["stats"]:
                return json_response(self._facts.statistics([served]))
            case ["shadow"]:
                return json_response(self._shadow(name))
        return json_response(oip_facts.metadata(served))

    def _shadow(self, name: str) -> ShadowRecord:
        observer = self._answering.host.observer(name)
        if not isinstance(observer, Recording):
            raise Refused(404, f"{name} has no shadow. One begins with `edgeward serve … --shadow CANDIDATE`.")
        return observer.record()

    async def _infer(self, exchange: Exchange, name: str, version: str | None) -> Response:
        exchange.only("POST")
        said = exchange.headers.get(oip_binary.HEADER)
        if said is None:
            return await self._answering.answer(exchange, name, version, _answer, wishes=_wishes)
        try:
            length = oip_binary.header_length(said)
        except MalformedRequest as error:
            raise RefusedUnread(400, str(error)) from error
        work, wishes = partial(_answer, header_length=length), partial(_wishes, header_length=length)
        return await self._answering.answer(exchange, name, version, work, lead_in=oip_binary.lead_in(length), wishes=wishes)

    async def _repository_asked(self, exchange: Exchange, rest: list[str]) -> Response:
        match rest:
            case ["index"]:
                exchange.only("POST")
                asked = await self._small(exchange, _IndexRequest)
                return json_response(self._facts.index(only_ready=asked.ready))
            case ["models", name, "load" | "unload" as change]:
                exchange.only("POST")
                asked_for = await self._small(exchange, _LoadRequest)
                await self._facts.change(name, change, list(asked_for.parameters))
                return json_response({})
        raise exchange.nothing_here("The repository has /index, and /models/{name}/load and /unload.")

    async def _small(self, exchange: Exchange, kind: type[_Small]) -> _Small:
        """A body of a few settings; none is all defaults."""
        body = await self._answering.bodies.read(exchange)
        try:
            return msgspec.json.decode(body or b"{}", type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Refused(400, f"The body is not what {exchange.path} takes: {error}.") from error
        finally:
            self._answering.bodies.release(body)


def _wishes(body: Body, *, header_length: int | None = None) -> Wishes:
    """What the request says of its time and importance, found without reading its tensors."""
    wished = oip.read_wishes(body, header_length=header_length)
    return NO_WISHES if wished is None else wishes_of(*wished)


def _answer(question: Question, *, header_length: int | None = None) -> Response:
    request = oip.decode_request(question.body, header_length=header_length)
    inference = question.infer(request.inputs, raw=request.raw, results=request.results)
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
