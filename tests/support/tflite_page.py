"""What `docs/tflite.md` says of operators, from the code: which there are, and which forms each refuses.

    python -m tests.support.tflite_page    # writes both into the page

The refusals are read from the source: what an operator's function, and those that it calls, tell `Call.unsupported`, and which
inputs they want as constants.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import textwrap
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from converters.tflite import operators
from converters.tflite.operators import TABLE
from converters.tflite.rewriting import NEEDS, RULES

PAGE = Path(__file__).parents[2] / "docs" / "tflite.md"

_FOLDER = Path(operators.__file__).parent
_CONSTANTS = {"constant", "optional", "integers"}

_COMPUTED = "computed "
_HEADING = "## Operators"
_INTRODUCTION = """

float32 throughout, with int32, int64 and truth values where ONNX has them. Images may have one, two or three spatial axes.

{names}

Each in all its forms but these, which are refused by name. (This section is written by `python -m tests.support.tflite_page`.)

{forms}
"""

Function = tuple[str, str]
"""Its module's and its own name."""


def page() -> str:
    """The page with its last section made anew."""
    kept = PAGE.read_text(encoding="utf-8").split(_HEADING)[0]
    return f"{kept}{_HEADING}{_INTRODUCTION.format(names=names(), forms=forms())}"


def names() -> str:
    """The operators, wrapped."""
    return textwrap.fill(", ".join(sorted({*TABLE, *RULES})) + ".", 118)


def forms() -> str:
    """The table of what is refused, operators with the same refusals together."""
    together: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, refusals in sorted(refused().items()):
        together[refusals].append(name)
    rows = [f"| {', '.join(each)} | {' · '.join(refusals)} |" for refusals, each in together.items()]
    return "\n".join(["| operator | refused |", "|---|---|", *sorted(rows)])


def refused() -> dict[str, tuple[str, ...]]:
    """Of each operator that refuses any form, the messages, and last which inputs must be constants."""
    found: dict[str, tuple[str, ...]] = {name: (f"it needs {needs}",) for name, needs in NEEDS.items()}
    for module in modules():
        for name, value in _entries(module):
            every = dict.fromkeys(each for function in _mentioned(module, value) for each in _refusals(function, ()))
            inputs = sorted(each.removeprefix(_COMPUTED) for each in every if each.startswith(_COMPUTED))
            said = sorted(each for each in every if not each.startswith(_COMPUTED))
            if every:
                found[name] = (*said, *([f"computed at run time: {', '.join(inputs)}"] if inputs else []))
    return found


def modules() -> list[str]:
    return sorted(each.name for each in pkgutil.iter_modules([str(_FOLDER)]))


@cache
def _parsed(module: str) -> ast.Module:
    return ast.parse((_FOLDER / f"{module}.py").read_text(encoding="utf-8"))


@cache
def _functions(module: str) -> dict[str, tuple[Function, ast.FunctionDef]]:
    """The functions that a module's code can name, also those of other modules here."""
    found = {each.name: ((module, each.name), each) for each in _parsed(module).body if isinstance(each, ast.FunctionDef)}
    for each in _parsed(module).body:
        if isinstance(each, ast.ImportFrom) and each.module and each.module.startswith(f"{operators.__name__}."):
            theirs = _functions(each.module.rsplit(".", 1)[1])
            found |= {alias.name: theirs[alias.name] for alias in each.names if alias.name in theirs}
    return found


def _entries(module: str) -> Iterator[tuple[str, ast.expr]]:
    """The lines of a module's table."""
    table = getattr(importlib.import_module(f"{operators.__name__}.{module}"), "TABLE", {})
    for each in _parsed(module).body:
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name) and each.target.id == "TABLE":
            assert isinstance(each.value, ast.Dict)
            assert len(each.value.keys) == len(table)
            for key, value in zip(each.value.keys, each.value.values, strict=True):
                assert isinstance(key, ast.Constant)
                yield str(key.value), value


def _mentioned(module: str, code: ast.AST) -> list[tuple[Function, ast.FunctionDef]]:
    known = _functions(module)
    return [known[each.id] for each in ast.walk(code) if isinstance(each, ast.Name) and each.id in known]


def _refusals(function: tuple[Function, ast.FunctionDef], above: tuple[Function, ...]) -> Iterator[str]:
    (module, _), code = function
    if function[0] in above:
        return
    for each in ast.walk(code):
        if isinstance(each, ast.Call) and isinstance(each.func, ast.Attribute):
            if each.func.attr == "unsupported":
                yield _text(module, each.args[0])
            elif each.func.attr in _CONSTANTS and ast.unparse(each.func.value) == "call":
                yield _COMPUTED + _text(module, each.args[1])
        elif isinstance(each, ast.Name) and each.id in _functions(module):
            yield from _refusals(_functions(module)[each.id], (*above, function[0]))


def _text(module: str, argument: ast.expr) -> str:
    """A message, with module constants filled in and all else that it names left out."""
    if isinstance(argument, ast.JoinedStr):
        return "".join(_text(module, part) for part in argument.values)
    if isinstance(argument, ast.Constant):
        return str(argument.value)
    named = argument.value if isinstance(argument, ast.FormattedValue) else argument
    here = vars(importlib.import_module(f"{operators.__name__}.{module}"))
    return str(here[named.id]) if isinstance(named, ast.Name) and named.id in here else "…"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
