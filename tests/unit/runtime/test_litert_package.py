"""Which package runs TFLite files, on packages made for the test: each is a directory on the path of a child process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

WORKS = """
class Interpreter:
    def __init__(self, model_content, num_threads): assert model_content[4:8] == b"TFL3"
    def allocate_tensors(self): pass
    def invoke(self): pass
def load_delegate(path): raise ValueError
"""
BROKEN = WORKS.replace("pass", "raise SystemError('_ARRAY_API not found')", 1)
GONE = "raise ImportError('libGL.so.1: cannot open shared object file')"

ASK = """
import sys
from runtime.engines import litert_package
from runtime import RuntimeFailure
try:
    found = litert_package.find()
    print(found.title, "|", found.choice)
except RuntimeFailure as error:
    print(type(error).__name__, "|", error)
"""


def put(directory: Path, distribution: str, version: str, code: str) -> None:
    module = directory / distribution.replace("-", "_")
    module.mkdir(parents=True)
    (module / "__init__.py").write_text("")
    (module / "interpreter.py").write_text(code)
    facts = directory / f"{distribution.replace('-', '_')}-{version}.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")


def asked(directory: Path) -> str:
    """What is found with this directory before all others; its packages hide those of the environment."""
    environment = {**os.environ, "PYTHONPATH": f"{directory}:{Path(__file__).parents[3]}"}  # noqa: TID251 - a child's own path
    done = subprocess.run([sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_litert_comes_first(tmp_path: Path) -> None:
    put(tmp_path, "ai-edge-litert", "9.1", WORKS)
    put(tmp_path, "tflite-runtime", "2.14.0", WORKS)
    assert asked(tmp_path) == "LiteRT 9.1 | LiteRT is the first that runs here"


def test_where_litert_does_not_run_the_other_is_taken_and_it_says_why(tmp_path: Path) -> None:
    put(tmp_path, "ai-edge-litert", "9.1", GONE)
    put(tmp_path, "tflite-runtime", "2.14.0", WORKS)
    said = asked(tmp_path)
    assert said.startswith("tflite-runtime 2.14.0 | LiteRT 9.1 is installed and does not run: libGL.so.1")
    assert said.endswith("tflite-runtime is the first that runs here")


def test_tflite_runtime_that_imports_and_fails_at_the_first_interpreter_says_that_numpy_is_too_new(tmp_path: Path) -> None:
    put(tmp_path, "ai-edge-litert", "9.1", GONE)
    put(tmp_path, "tflite-runtime", "2.14.0", BROKEN)
    said = asked(tmp_path)
    assert said.startswith("EngineUnavailable | Nothing here runs TFLite models")
    assert "tflite-runtime 2.14.0 is installed and does not run: it was built for numpy 1, and this is numpy 2" in said
    assert "pip install 'edgeward[tflite]'" in said
