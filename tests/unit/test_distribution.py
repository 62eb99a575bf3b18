"""What we ship, and the budgets that keep it readable."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import click
import pytest

from edgeward import cli

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "converters",
    "device_agent",
    "edgeward",
    "fleet_io",
    "fleet_protocol",
    "fleet_telemetry",
    "model_registry",
    "runtime",
}
FILE_LINES = 500
FUNCTION_LINES = 35


def source_files() -> list[Path]:
    return [path for package in sorted(PACKAGES) for path in sorted((ROOT / package).rglob("*.py"))]


def function_lengths() -> list[int]:
    return [
        (node.end_lineno or node.lineno) - node.lineno + 1
        for path in source_files()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def test_the_wheel_holds_our_packages_by_their_literal_names_and_nothing_else(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
    )
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names} == PACKAGES | {"edgeward-0.1.0.dist-info"}
    wanted = {
        "edgeward/demo/digits/digits.npz",
        "edgeward/demo/digits/damage.py",
        "runtime/local_server/protos/descriptors.binpb",
    }
    assert wanted <= set(names)


def test_the_packages_are_those_that_pyproject_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) == PACKAGES
    assert set(project["tool"]["importlinter"]["root_packages"]) == PACKAGES


def test_no_file_is_longer_than_the_budget() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in source_files()}
    assert {name: lines for name, lines in lengths.items() if lines > FILE_LINES} == {}


def test_nine_functions_in_ten_are_within_the_budget() -> None:
    lengths = sorted(function_lengths())
    assert lengths[int(0.9 * (len(lengths) - 1))] <= FUNCTION_LINES


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_every_command_exists_has_help_with_an_example_and_stands_in_the_docs(name: str) -> None:
    command = cli.LazyGroup().get_command(click.Context(cli.cli), name)
    assert command is not None
    documented = "\n".join(path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    assert f"edgeward {name}" in (command.help or "")
    assert f"edgeward {name}" in documented


def test_listing_commands_imports_no_package_below() -> None:
    script = "import sys, click; from edgeward import cli; cli.cli.get_help(click.Context(cli.cli)); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    assert {name.split(".")[0] for name in loaded} & (PACKAGES - {"edgeward"}) == set()


def test_the_agent_command_does_not_import_the_converters() -> None:
    script = "import sys; import edgeward.commands.agent, device_agent.daemon; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    assert {name.split(".")[0] for name in loaded} & {"converters", "model_registry", "fleet_telemetry", "sqlalchemy"} == set()


def loaded_by(statement: str) -> set[str]:
    """The modules that are loaded after it, in a process of its own."""
    script = f"import sys; {statement}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split())


def test_serving_a_model_imports_nothing_that_only_some_need() -> None:
    """Each of these costs 10 to 80 ms of the way to the first answer; onnxruntime or LiteRT comes with the model."""
    loaded = loaded_by("import edgeward.cli, edgeward.commands.serve")
    assert {"uvicorn", "runtime.local_server.server"} <= loaded
    others = {"rich", "psutil", "tomllib", "zipfile", "importlib.metadata", "onnxruntime", "ai_edge_litert", "grpc", "google"}
    ours = {
        "runtime.gate",
        "runtime.golden",
        "runtime.explain",
        "runtime.hosting.isolated",
        "runtime.hosting.weighing_child",
        "runtime.local_server.grpc_app",
        "runtime.shadowing.shadow",
        "runtime.tuning.measurement",
        "runtime.tuning.prepared",
    }
    assert loaded & (others | ours) == set()


def test_running_models_in_a_program_imports_no_server_and_no_engine() -> None:
    loaded = {name.split(".")[0] for name in loaded_by("import runtime")}
    assert loaded & {"uvicorn", "asyncio", "onnxruntime", "ai_edge_litert", "psutil", "rich", "click"} == set()
