"""Holds the extras of pyproject.toml against what commands import: who installs the one that is named can run the command."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from edgeward.cli import COMMANDS, EXTRAS

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "examples" / "digits"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

CHILD = """
import importlib, json, sys

hidden, run, *arguments = json.loads(sys.argv[1])

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
if run == "import":
    for command in arguments:
        importlib.import_module(f"edgeward.commands.{command}")
else:
    from edgeward.cli import main
    main(arguments)
"""
"""A process in which packages that an installation would not have cannot be found."""

TRAINING = "convert,compress"
"""`make` does not install what `edgeward compress` trains with; its module is held to the part that is here."""


def brought(extras: str) -> set[str]:
    """All distributions that `pip install edgeward[extras]` brings, as far as they are installed here."""
    optional = PROJECT["optional-dependencies"]
    waiting = [Requirement(line) for line in PROJECT["dependencies"]]
    waiting += [Requirement(line) for extra in filter(None, extras.split(",")) for line in optional[extra]]
    seen = {("edgeward", "")}
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras} - {extra for known, extra in seen if known == name}:
            seen.add((name, extra))
            waiting += [each for each in asked_by(name) if each.marker is None or each.marker.evaluate({"extra": extra})]
    return {name for name, _ in seen}


def asked_by(name: str) -> list[Requirement]:
    try:
        return [Requirement(line) for line in importlib.metadata.requires(name) or ()]
    except importlib.metadata.PackageNotFoundError:
        return []


def without(extras: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run in a process where only what the extras bring can be imported."""
    there = brought(extras)
    modules = importlib.metadata.packages_distributions()
    hidden = [module for module, owners in modules.items() if not there & {canonicalize_name(owner) for owner in owners}]
    command = [sys.executable, "-c", CHILD, json.dumps([hidden, *arguments])]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)


@pytest.mark.parametrize("extras", sorted({"", *EXTRAS.values()}))
def test_a_commands_extra_brings_everything_that_it_imports(extras: str) -> None:
    commands = [name for name in COMMANDS if EXTRAS.get(name, "") == extras]
    assert commands

    ran = without("convert" if extras == TRAINING else extras, "import", *commands)

    assert not ran.returncode, ran.stderr


def test_convert_runs_with_nothing_but_its_extra(tmp_path: Path) -> None:
    digits, data = str(DIGITS / "digits-v1.onnx"), str(DIGITS / "digits.npz")
    asked = ["--name", "digits", "--version", "1.0.0", "--out", str(tmp_path / "out"), "--tflite"]

    ran = without("convert", "run", "convert", digits, "--data", data, *asked)

    assert not ran.returncode, ran.stderr
    assert (tmp_path / "out" / "variants" / "tflite-int8.tflite").is_file()


def test_predict_runs_with_nothing_but_its_extra(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", pixels=np.zeros((1, 1, 8, 8), np.float32))

    ran = without("device", "run", "predict", str(DIGITS / "digits-v1.onnx"), str(tmp_path / "one.npz"), "--json")

    assert not ran.returncode, ran.stderr


@pytest.mark.parametrize(
    ("extras", "command", "named"),
    [
        ("", ["convert", "--help"], "'edgeward[convert]'"),
        (
            "fleet",
            ["predict", str(DIGITS / "digits-v1.onnx"), "one.npz"],
            "'onnxruntime'. Install it with: pip install 'edgeward[device]'",
        ),
        ("device", ["demo"], "'onnx'. Install it with: pip install 'edgeward[device,convert,fleet]'"),
    ],
    ids=["at its import", "when it runs", "before its processes start"],
)
def test_a_command_without_its_extra_names_it(extras: str, command: list[str], named: str) -> None:
    ran = without(extras, "run", *command)

    assert ran.returncode == 1
    assert named in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
