"""`edgeward serve`: models on localhost, until it is told to stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeward import hanging, placement, serving_options, stopping, terminal
from edgeward.serving import Service, Settings, running


@click.command()
@click.argument("models", metavar="BUNDLE_OR_MODEL...", nargs=-1, required=True, type=click.Path(path_type=Path))
@serving_options.listening
@serving_options.running
@placement.options
@placement.tuned_options
@serving_options.crowd
@serving_options.experiment
@serving_options.shadow
@terminal.json_option
def command(*, as_json: bool, **asked: Any) -> None:  # noqa: ANN401  # click's own; `Settings` names and types them
    """Answer requests for models over HTTP and gRPC.

    It speaks the Open Inference Protocol v2 (JSON and raw tensors, as tritonclient sends them) and TensorFlow Serving's
    REST API; /metrics is for Prometheus. Serves bundle directories, and .onnx or .tflite files, until Ctrl-C or SIGTERM.
    With --json, stdout says where it listens. Without a token, everybody who can connect may ask.

    With --grpc-port it speaks both protocols over gRPC too, as their clients expect; that needs edgeward[grpc].

    Where `edgeward tune` has found how a model runs best on this device, it runs so; --no-tuned, or an option that says
    otherwise, goes before that.

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
      edgeward serve digits-1.0.0 faces.tflite words.onnx --memory-budget 200MB --pin digits
      edgeward serve model.onnx --isolate --max-waiting 16 --timeout 2
      edgeward serve model.onnx --provider auto
      edgeward serve model.onnx --address unix:/run/model.sock --token-file token
      edgeward serve digits-1.0.0 --against digits-1.1.0 --against-share 0.2
      edgeward serve digits-1.0.0 --shadow digits-1.1.0 --shadow-share 0.2
      curl http://127.0.0.1:8000/v2/models/digits/shadow
    """
    asked_to_stop = stopping.on_signals()
    settings = Settings(**asked)
    with running(settings, hung=hanging.end) as service:
        _announce(service, settings, as_json=as_json)
        asked_to_stop.wait()


def _announce(service: Service, settings: Settings, *, as_json: bool) -> None:
    """Say where it listens: to programs on stdout, to people on stderr. Engines are those of the models that are loaded."""
    server, rows = service.server, _rows(service)
    if as_json:
        said = {"url": server.url, "grpc": server.grpc_address, "models": rows}
        terminal.print_json({**said, **rows[0]} if len(rows) == 1 else said)
    for row in rows:
        engine = row.get("engine", "loaded when it is asked for")
        click.secho(f"Serving {row['model']} {row['version']}", fg="green", bold=True, nl=False, err=True)
        _say(f" ({row['variant']}, {engine})")
        _say(f"  runs {row['way']}")
    name = rows[0]["model"]
    _say(f"  POST {server.url}/v2/models/{name}/infer · stop with Ctrl-C")
    if server.grpc_address is not None:
        _say(f"  gRPC on {server.grpc_address}")
    if settings.shadow is not None:
        _say(f"  {settings.shadow} gets copies in the shadow: GET {server.url}/v2/models/{name}/shadow")


def _say(line: str) -> None:
    """One line to people, without what makes tables: the first answer must not wait for that."""
    click.echo(line, err=True)


def _rows(service: Service) -> list[dict[str, Any]]:
    loaded = {served.identity: served for served in service.models.active()}
    rows = []
    for identity in service.models.identities():
        way = service.ways[identity]
        row: dict[str, Any] = {
            "model": identity.model,
            "version": identity.version,
            "variant": identity.variant,
            "way": way.why,
        }
        row |= {"threads": way.source.threads, "batch": way.source.batch}
        if identity in loaded:
            row |= {"engine": loaded[identity].engine, "choice": loaded[identity].choice}
        rows.append(row)
    return rows
