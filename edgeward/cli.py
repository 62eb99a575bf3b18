"""The `edgeward` command: finds each command's module only when it is asked for, and turns known errors into one clear line.

`edgeward agent` on a device must start without the converters installed, so nothing here imports a package below.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Final

import click

from edgeward import __version__, terminal

COMMANDS: Final[dict[str, str]] = {
    "agent": "Run the agent of one device.",
    "bench": "Measure how fast models are on this device.",
    "claim": "Make the token with which a device enrols.",
    "compress": "Train smaller models from a PyTorch one: pruned, distilled, quantization-aware.",
    "convert": "Compress a model into a bundle: int8 beside float, with golden outputs and a report.",
    "demo": "Play one model's whole life on this machine.",
    "devices": "Show what every device runs.",
    "diff": "Show how two bundles or models differ.",
    "events": "Show what happened on the devices.",
    "inspect": "Show what is in a bundle.",
    "models": "Show published models and how they do in the fleet.",
    "predict": "Run one input through a model.",
    "publish": "Sign a bundle and hand it to the registry.",
    "rollout": "Bring a release to a cohort, and watch it.",
    "serve": "Answer requests for models on localhost.",
    "status": "Show the fleet at a glance.",
    "stream": "Run a model on all that comes from a directory, camera, pipe or topic.",
    "tune": "Find the fastest way to run a model on this device.",
    "up": "Start the central side on this machine.",
    "verify": "Check that a bundle is whole.",
}
"""Every command and its one line of help; `edgeward/commands/<name>.py` holds each."""

EXTRAS: Final[dict[str, str]] = {
    "agent": "device",
    "bench": "device",
    "claim": "fleet",
    "compress": "convert,compress",
    "convert": "convert",
    "demo": "device,convert,fleet",
    "devices": "fleet",
    "diff": "convert",
    "events": "fleet",
    "models": "fleet",
    "predict": "device",
    "publish": "fleet",
    "rollout": "fleet",
    "serve": "device",
    "status": "fleet",
    "stream": "device",
    "tune": "device",
    "up": "fleet",
}
"""The extra that brings what a command needs."""

_ROOTS: Final = frozenset(
    {
        "edgeward.errors.FrontDoorError",
        "fleet_protocol.errors.ProtocolError",
        "fleet_io.errors.RimError",
        "runtime.errors.RuntimeFailure",
        "converters.errors.ConversionError",
        "device_agent.errors.AgentError",
        "model_registry.errors.RegistryError",
        "fleet_telemetry.errors.TelemetryError",
    }
)

_OURS: Final = frozenset(root.partition(".")[0] for root in _ROOTS)


def _lacking(command: str, error: ModuleNotFoundError) -> str:
    extra = EXTRAS.get(command, "dev")
    return f"`edgeward {command}` needs the package {error.name!r}. Install it with: pip install 'edgeward[{extra}]'"


class LazyGroup(click.Group):
    """A group whose commands are imported when they run, not when they are listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, in order of the alphabet."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command's module."""
        if cmd_name not in COMMANDS:
            return None
        try:
            command = importlib.import_module(f"edgeward.commands.{cmd_name}").command
        except ModuleNotFoundError as error:
            raise click.ClickException(_lacking(cmd_name, error)) from error
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> object:
        """Run the command. Some packages, such as engines, are only looked for then."""
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            if ctx.invoked_subcommand is None or error.name is None or error.name.partition(".")[0] in _OURS:
                raise
            raise click.ClickException(_lacking(ctx.invoked_subcommand, error)) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name]) for name in self.list_commands(ctx)])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="edgeward")
def cli() -> None:
    """Take models that were trained in the cloud to a fleet of devices, and keep them healthy there.

    \b
    See it work on this machine:
      edgeward demo
    \b
    The way of one model:
      edgeward up                                             # the central side
      edgeward convert model.onnx --data data.npz --name digits --version 1.0.0 --out digits-1.0.0
      edgeward publish digits-1.0.0
      edgeward rollout start digits 1.0.0 --cohort all
      edgeward devices
    """


def main(arguments: Sequence[str] | None = None, *, group: click.Group = cli) -> None:
    """Run one command of `group` and exit: 0 done, 1 could not be done, 2 wrong usage, 130 interrupted."""
    terminal.speak_any_encoding()
    try:
        # Outside its standalone mode, click returns the code of `ctx.exit(code)`.
        code = group.main(args=None if arguments is None else list(arguments), prog_name="edgeward", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    except Exception as error:
        said = _said(error)
        if said is None:
            raise
        click.secho("Error: ", fg="red", err=True, nl=False)
        click.echo(said, err=True)
        sys.exit(1)


def _said(error: Exception) -> str | None:
    """The error for people; None: it is a fault of ours, and shows where."""
    if _is_known(error):
        return str(error)
    if isinstance(error, OSError) and error.strerror:  # a full disk, a path that may not be written: nobody's code is wrong
        what = f"{error.filename}: " if error.filename is not None else ""
        return f"{what}{error.strerror}. Check the paths that were given, their permissions and the room on the disk."
    if isinstance(error, MemoryError):
        why = str(error) or "the system gives no more"
        return f"There is not enough memory: {why}. Give less at once, or end other programs."
    return None


def _is_known(error: Exception) -> bool:
    """Whether a package below means this error for people."""
    return any(f"{kind.__module__}.{kind.__qualname__}" in _ROOTS for kind in type(error).__mro__)
