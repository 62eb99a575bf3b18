"""`edgeward serve`: one model on localhost, until it is told to stop."""

from __future__ import annotations

import dataclasses
import signal
import threading
from pathlib import Path
from typing import TextIO

import click

from edgeward import placement, terminal
from runtime import Model, ModelHost, ModelIdentity
from runtime.repository import Repository
from runtime.server import LocalServer
from runtime.shadow import Allowance, Shadow
from runtime.sources import find


@click.command()
@click.argument("model", metavar="BUNDLE_OR_MODEL", type=click.Path(path_type=Path))
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
    model: Path,
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
    shadow: Path | None,
    shadow_share: float,
    shadow_cpu: float,
    as_json: bool,
) -> None:
    """Answer requests for one model over HTTP and gRPC.

    It speaks the Open Inference Protocol v2 (JSON and raw tensors, as tritonclient sends them) and TensorFlow Serving's
    REST API; /metrics is for Prometheus. Serves a bundle directory, or an .onnx or .tflite file, until Ctrl-C or SIGTERM.
    With --json, stdout says where it listens. Without a token, everybody who can connect may ask.

    With --grpc-port it speaks both protocols over gRPC too, as their clients expect; that needs edgeward[grpc].

    A --shadow gets copies of some requests in a process of its own; clients never see its answers. How it compares is at
    /v2/models/MODEL/shadow and in /metrics.

    \b
    Examples:
      edgeward serve digits-1.0.0
      edgeward serve model.onnx --port 0 --json
      edgeward serve model.onnx --grpc-port 8001
      edgeward serve model.onnx --provider auto
      edgeward serve model.onnx --address unix:/run/model.sock --token-file token
      edgeward serve digits-1.0.0 --shadow digits-1.1.0 --shadow-share 0.2
      curl http://127.0.0.1:8000/v2/models/digits/shadow
    """
    source = dataclasses.replace(find(model, variant=variant), provider=provider, delegate=delegate)
    host, opened = ModelHost(), source.load(threads=threads)
    host.activate(source.identity, opened, source.labels)
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    repository = Repository(host, [source], threads=threads) if manage else None
    grpc = _grpc_listener(address, grpc_address, grpc_port)
    server = LocalServer(host, address=address, port=port, repository=repository, token=_token(token_file), grpc=grpc)
    beside = None if shadow is None else Shadow(host, source.identity.model, find(shadow), Allowance(shadow_share, shadow_cpu))
    server.start()
    if beside is not None:
        beside.start()
    try:
        _announce(server, source.identity, opened, shadow, as_json=as_json)
        stopping.wait()
    finally:
        if beside is not None:
            beside.stop()
        server.stop()
        host.deactivate(source.identity.model)


def _announce(server: LocalServer, identity: ModelIdentity, opened: Model, shadow: Path | None, *, as_json: bool) -> None:
    """Say where it listens: to programs on stdout, to people on stderr."""
    if as_json:
        said = {"url": server.url, "grpc": server.grpc_address, "engine": opened.engine, "choice": opened.choice}
        terminal.print_json({**said, "model": identity.model, "version": identity.version})
    terminal.err.print(f"[bold green]Serving {identity.model} {identity.version}[/] ({identity.variant}, {opened.engine})")
    terminal.err.print(f"  POST {server.url}/v2/models/{identity.model}/infer · stop with Ctrl-C")
    if server.grpc_address is not None:
        terminal.err.print(f"  gRPC on {server.grpc_address}")
    if shadow is not None:
        terminal.err.print(f"  {shadow} gets copies in the shadow: GET {server.url}/v2/models/{identity.model}/shadow")


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
