"""`edgeward demo`: one model's whole life on this machine."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

import click
import msgspec

import edgeward
from edgeward import terminal
from edgeward.commands.devices import show_fleet
from edgeward.demo import facts as outcome
from edgeward.demo.processes import troupe
from edgeward.demo.story import Demo
from edgeward.errors import DemoFailed
from fleet_io import durable
from fleet_io.clock import SystemClock


def find_examples() -> Path:
    """The digits: in a clone beside the package, in an installed wheel inside of it."""
    package = Path(edgeward.__file__).parent
    for folder in (package.parent / "examples" / "digits", package / "demo" / "digits"):
        if (folder / "digits.npz").is_file():
            return folder
    raise DemoFailed("The example models are not here. Clone the repository and run `make demo` in it.")


def _check_installed() -> None:
    """What the demo's processes need, before the first of them starts. Raises `ModuleNotFoundError`."""
    for package in ("onnx", "onnxruntime", "starlette", "paho"):
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)


@click.command()
@click.option("--json", "target", type=click.Path(dir_okay=False, path_type=Path), help="Also write the facts to this file.")
@click.option("--keep", is_flag=True, help="Leave everything running, and print where and how to end it.")
def command(target: Path | None, *, keep: bool) -> None:
    """Play one model's whole life on this machine: central side and three devices, as real processes.

    A first model is converted, signed, published and rolled out; a better one replaces it while requests run; a third one was
    broken on purpose, is refused by every device, and the second goes on.

    \b
    Examples:
      edgeward demo
      edgeward demo --json facts.json
      edgeward demo --keep
    """
    _check_installed()
    clock = SystemClock()
    with terminal.stoppable(), ExitStack() as held:
        work = (
            Path(tempfile.mkdtemp(prefix="edgeward-demo-"))
            if keep
            else Path(held.enter_context(tempfile.TemporaryDirectory(prefix="edgeward-demo-")))
        )
        players = held.enter_context(
            troupe(work, clock, keep=keep, environment=os.environ)  # noqa: TID251 - a program reads its environment once, here
        )
        facts = Demo(players, find_examples(), work, terminal.out, clock).play()
        conclude(facts, clock.now())
        if target is not None:
            durable.write_bytes(target, msgspec.json.format(msgspec.json.encode(facts), indent=2) + b"\n")
        if keep:
            say_how_to_go_on(work, facts, {name: process.pid for name, process in players.running.items()})
    if facts.requests.failed:
        raise DemoFailed(f"{facts.requests.failed} requests failed; none may.")


def conclude(facts: outcome.Facts, now: float) -> None:
    """The end of the story, in tables."""
    terminal.out.print()
    show_fleet(facts.devices, now)
    terminal.out.print()
    outcome.show(facts, terminal.out)
    terminal.out.print(f"\n[bold green]Done[/] in {facts.seconds:.0f} s.")


def say_how_to_go_on(work: Path, facts: outcome.Facts, pids: dict[str, int]) -> None:
    """What `--keep` has left running."""
    terminal.out.print("\nEverything is still up:")
    for device in facts.devices:
        terminal.out.print(f"  {device.device:<10} {device.serving}/v2/models/digits")
    terminal.out.print(f"  look       edgeward devices --data-dir {work / 'central'}")
    terminal.out.print(f"  logs       {work}")
    terminal.out.print(f"  end it     kill {' '.join(str(pid) for pid in pids.values())}; rm -r {work}")
