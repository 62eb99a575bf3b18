"""`edgeward serve`: models on localhost, until it is told to stop."""

from __future__ import annotations

import dataclasses
import re
import signal
import threading
from pathlib import Path
from typing import Final, TextIO

import click

from edgeward import placement, terminal
from runtime.hosting.admission import WAITING, Limits
from runtime.hosting.experiment import Experiment, Split
from runtime.hosting.host import default_limits
from runtime.hosting.isolated import InChildren
from runtime.hosting.pool import InProcess, ModelPool
from runtime.hosting.repository import Repository
from runtime.local_server.answering import TIMEOUT_S
from runtime.local_server.server import LocalServer
from runtime.shadowing.shadow import Allowance, Shadow
from runtime.sources import UNRELEASED, Source, find

_UNITS: Final = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


def _size(_context: click.Context, _option: click.Parameter, said: str | None) -> int | None:
    """Bytes of `200MB`, `1.5GiB` or `200000000`. Raises `click.BadParameter`."""
    if said is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMG]I?|)B?", said.upper())
    if found is None:
        raise click.BadParameter(f"{said!r} is no size. Give bytes, or a number with a unit: 200MB, 1.5GiB.")
    return int(float(found[1]) * _UNITS[found[2]])


@click.command()
@click.argument("models", metavar="BUNDLE_OR_MODEL...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port; 0 takes a free one.")
@click.option("--address", default="127.0.0.1", show_default=True, help="Address, or unix:PATH for a socket.")
@click.option("--grpc-port", type=click.IntRange(0, 65535), help="Port for gRPC; 0 takes a free one.  [default: no gRPC]")
@click.option("--grpc-address", help="Address for gRPC, or unix:PATH for a socket.  [default: the same as --address]")
@click.option(
    "--token-file", type=click.File(encoding="utf-8"), help="File with a token that clients must show.  [default: none]"
)
@click.option("--manage", is_flag=True, help="Let clients unload the model and load it again.")
@click.option("--variant", help="Variant of a bundle.  [default: the publisher's first]")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of one inference.  [default: the engine's]")
@placement.options
@click.option(
    "--memory-budget", metavar="SIZE", callback=_size, help="Memory of all models together, such as 200MB.  [default: no bound]"
)
@click.option(
    "--max-waiting",
    type=click.IntRange(min=0),
    default=WAITING,
    show_default=True,
    help="Requests that may wait for a model; beyond them is a 503.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=TIMEOUT_S,
    show_default=True,
    help="Seconds that a request is given which does not say it itself.",
)
@click.option("--isolate", is_flag=True, help="Run each model in a process of its own.")
@click.option(
    "--batch",
    type=click.IntRange(1, 1024),
    default=1,
    show_default=True,
    help="Samples of waiting requests that are run together, at most.",
)
@click.option(
    "--against", metavar="OTHER", type=click.Path(path_type=Path), help="Bundle or model that answers a part of the requests."
)
@click.option(
    "--against-share",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.5,
    show_default=True,
    help="Share of the keys that the other answers.",
)
@click.option("--salt", default="", help="Tells experiments apart: another salt deals the keys anew.  [default: none]")
@click.option(
    "--shadow", metavar="CANDIDATE", type=click.Path(path_type=Path), help="Bundle or model that gets copies of requests."
)
@click.option(
    "--shadow-share",
    type=click.FloatRange(0, 1, min_open=True),
    default=Allowance().share,
    show_default=True,
    help="Share of requests that the candidate gets.",
)
@click.option(
    "--shadow-cpu",
    type=click.FloatRange(0, 1, min_open=True),
    default=Allowance().cpu_share,
    show_default=True,
    help="Share of one core that the candidate may take.",
)
@terminal.json_option
def command(
    models: tuple[Path, ...],
    *,
    port: int,
    address: str,
    grpc_port: int | None,
    grpc_address: str | None,
    token_file: TextIO | None,
    manage: bool,
    variant: str | None,
    threads: int | None,
    provider: str | None,
    delegate: Path | None,
    memory_budget: int | None,
    max_waiting: int,
    timeout: float,
    isolate: bool,
    batch: int,
    against: Path | None,
    against_share: float,
    salt: str,
    shadow: Path | None,
    shadow_share: float,
    shadow_cpu: float,
    as_json: bool,
) -> None:
    """Answer requests for models over HTTP and gRPC.

    It speaks the Open Inference Protocol v2 (JSON and raw tensors, as tritonclient sends them) and TensorFlow Serving's
    REST API; /metrics is for Prometheus. Serves bundle directories, and .onnx or .tflite files, until Ctrl-C or SIGTERM.
    With --json, stdout says where it listens. Without a token, everybody who can connect may ask.

    With --grpc-port it speaks both protocols over gRPC too, as their clients expect; that needs edgeward[grpc].

    With --memory-budget each model is loaded when it is first asked for, and those that nobody asked for the longest time
    make room for it. A model that is isolated may crash or hang, and the next request works.

    With --against each request is answered by one of two versions, as its key says (the header edgeward-key); requests
    without a key stay with the first. A key always gets the same version, here and on every other device.

    A --shadow gets copies of some requests in a process of its own; clients never see its answers. How it compares is at
    /v2/models/MODEL/shadow and in /metrics.

    \b
    Examples:
      edgeward serve digits-1.0.0
      edgeward serve model.onnx --port 0 --json
      edgeward serve model.onnx --grpc-port 8001
      edgeward serve digits-1.0.0 faces.tflite words.onnx --memory-budget 200MB
      edgeward serve model.onnx --isolate --max-waiting 16 --timeout 2
      edgeward serve model.onnx --provider auto
      edgeward serve model.onnx --address unix:/run/model.sock --token-file token
      edgeward serve digits-1.0.0 --against digits-1.1.0 --against-share 0.2
      edgeward serve digits-1.0.0 --shadow digits-1.1.0 --shadow-share 0.2
      curl http://127.0.0.1:8000/v2/models/digits/shadow
    """
    sources = _found(models, variant, provider, delegate)
    if shadow is not None and len(sources) > 1:
        raise click.BadParameter("It shadows one model; serve that one alone.", param_hint="--shadow")
    other = None if against is None else _other(sources, _found((against,), None, provider, delegate)[0], memory_budget)

    def pool_of(offered: list[Source]) -> ModelPool:
        pool = _pool(memory_budget, threads=threads, max_waiting=max_waiting, isolate=isolate, batch=batch)
        for source in offered:
            pool.offer(source)
            if memory_budget is None:
                pool.fetch(source.identity.model)
        return pool

    name, pool = sources[0].identity.model, pool_of(sources)
    pools = {sources[0].identity.version: pool}
    serving: ModelPool | Experiment = pool
    if other is not None:
        pools[other.identity.version] = pool_of([other])
        serving = Experiment(name, Split(salt, dict(zip(pools, (1 - against_share, against_share), strict=True))), pools)
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    server = LocalServer(
        serving,
        address=address,
        port=port,
        repository=Repository(pool, sources) if manage else None,
        token=_token(token_file),
        timeout_s=timeout,
        grpc=_grpc_listener(address, grpc_address, grpc_port),
    )
    beside = None if shadow is None else Shadow(pool, name, find(shadow), Allowance(shadow_share, shadow_cpu))
    server.start()
    if beside is not None:
        beside.start()
    try:
        _announce(server, serving, shadow, as_json=as_json)
        stopping.wait()
    finally:
        if beside is not None:
            beside.stop()
        server.stop()
        for each in pools.values():
            each.close()


def _pool(memory_budget: int | None, *, threads: int | None, max_waiting: int, isolate: bool, batch: int) -> ModelPool:
    """A pool that loads and admits as was asked. Raises `click.BadParameter`."""
    if isolate:
        if batch > 1:
            raise click.BadParameter(
                "Isolated models run one request at a time; leave one of the two out.", param_hint="--batch"
            )
        limits = Limits(1, max_waiting, aside=True)
        return ModelPool(budget_bytes=memory_budget, loader=InChildren(threads=threads), limits=limits)
    limits = default_limits(waiting=max_waiting)
    if batch > 1:  # as many must be in as are run together, and who waits for others may hold up no event loop
        limits = Limits(max(batch, limits.running), max_waiting, aside=True)
    return ModelPool(budget_bytes=memory_budget, loader=InProcess(threads=threads, batch=batch), limits=limits)


def _found(paths: tuple[Path, ...], variant: str | None, provider: str | None, delegate: Path | None) -> list[Source]:
    """The models, each of another name. Raises `ModelRejected` or `click.BadParameter`."""
    found: dict[str, Source] = {}
    for path in paths:
        source = dataclasses.replace(find(path, variant=variant), provider=provider, delegate=delegate)
        name = source.identity.model
        if name in found:
            raise click.BadParameter(f"{found[name].path} and {source.path} are both called {name}. Serve one of them.")
        found[name] = source
    return list(found.values())


def _other(sources: list[Source], other: Source, memory_budget: int | None) -> Source:
    """The other version of an experiment, under the first one's name. Raises `click.BadParameter`."""
    first = sources[0].identity
    if len(sources) > 1:
        raise click.BadParameter("Two versions of one model are compared; serve that one alone.", param_hint="--against")
    if memory_budget is not None:
        raise click.BadParameter("Both versions stay loaded: no --memory-budget bounds them.", param_hint="--against")
    version = other.identity.version
    if version == UNRELEASED:  # bare files: told apart by what they hold
        version = f"{UNRELEASED}-{other.identity.manifest.removeprefix('sha256:')[:8]}"
    if version == first.version:
        raise click.BadParameter(f"{other.path} is version {version} too: answers name their version.", param_hint="--against")
    return dataclasses.replace(other, identity=dataclasses.replace(other.identity, model=first.model, version=version))


def _announce(server: LocalServer, pool: ModelPool | Experiment, shadow: Path | None, *, as_json: bool) -> None:
    """Say where it listens: to programs on stdout, to people on stderr. Engines are those of the models that are loaded."""
    identities, loaded = pool.identities(), {served.identity.model: served for served in pool.active()}
    rows = [
        {"model": each.model, "version": each.version}
        | ({"engine": loaded[each.model].engine, "choice": loaded[each.model].choice} if each.model in loaded else {})
        for each in identities
    ]
    if as_json:
        said = {"url": server.url, "grpc": server.grpc_address, "models": rows}
        terminal.print_json({**said, **rows[0]} if len(rows) == 1 else said)
    for identity in identities:
        engine = loaded[identity.model].engine if identity.model in loaded else "loaded when it is asked for"
        terminal.err.print(f"[bold green]Serving {identity.model} {identity.version}[/] ({identity.variant}, {engine})")
    name = identities[0].model
    terminal.err.print(f"  POST {server.url}/v2/models/{name}/infer · stop with Ctrl-C")
    if server.grpc_address is not None:
        terminal.err.print(f"  gRPC on {server.grpc_address}")
    if shadow is not None:
        terminal.err.print(f"  {shadow} gets copies in the shadow: GET {server.url}/v2/models/{name}/shadow")


def _grpc_listener(address: str, grpc_address: str | None, port: int | None) -> str | None:
    """Where gRPC listens: its own address or HTTP's, with its port. Raises `click.BadParameter`."""
    where = grpc_address or address
    if grpc_address is None and port is None:
        return None
    if where.startswith("unix:"):
        if port is None:
            return where
        wanted = "An address" if grpc_address is None else "A socket has no port: an address"
        raise click.BadParameter(f"{wanted} is wanted beside --grpc-port, or a socket alone.", param_hint="--grpc-address")
    if port is None:
        raise click.BadParameter("A port is wanted too: --grpc-port.", param_hint="--grpc-address")
    return f"[{where}]:{port}" if ":" in where else f"{where}:{port}"


def _token(file: TextIO | None) -> str | None:
    """The token in the file, without the line's end. Raises `click.BadParameter`."""
    if file is None:
        return None
    token = file.read().strip()
    if not token.isascii() or not token.isprintable() or not token:
        raise click.BadParameter(f"{file.name} holds no token of printable ASCII.", param_hint="--token-file")
    return token
