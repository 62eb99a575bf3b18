"""Configuration, read once: TOML file, then environment, then flags, into one frozen dataclass.

A key that is unknown, or a value that does not fit, stops the program with its name, what was given and what is allowed.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from fleet_io.errors import ConfigurationError

C = TypeVar("C")


def load(kind: type[C], *, file: Path | None, prefix: str, environ: Mapping[str, str], flags: Mapping[str, object | None]) -> C:
    """Read a frozen dataclass `kind`, whose field types carry the allowed values (`msgspec.Meta`).

    `file` is TOML or None; `environ` is searched for `PREFIX_KEY`; a flag of None was not given.
    Raises `ConfigurationError`.
    """
    values: dict[str, object] = {}
    sources: dict[str, str] = {}
    for source, layer in (
        (str(file), _from_file(file)),
        ("the environment", _from_environment(kind, prefix, environ)),
        ("the command line", {key: value for key, value in flags.items() if value is not None}),
    ):
        for key, value in layer.items():
            _check_key(kind, key, source)
            values[key], sources[key] = value, source
    return _convert(kind, values, sources)


def _from_file(file: Path | None) -> dict[str, object]:
    if file is None:
        return {}
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file} is not TOML: {error}") from error


def _from_environment(kind: type[object], prefix: str, environ: Mapping[str, str]) -> dict[str, object]:
    names = {f"{prefix}_{key.upper()}": key for key in _keys(kind)}
    return {names[name]: value for name, value in environ.items() if name in names}


def _keys(kind: type[object]) -> tuple[str, ...]:
    if not dataclasses.is_dataclass(kind):
        raise TypeError(f"{kind.__name__} is not a dataclass")
    return tuple(field.name for field in dataclasses.fields(kind))


def _check_key(kind: type[object], key: str, source: str) -> None:
    known = _keys(kind)
    if key in known:
        return
    near = difflib.get_close_matches(key, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else f" Known keys: {', '.join(known)}."
    raise ConfigurationError(f"{source} sets {key!r}, which is not a setting.{hint}")


def _convert(kind: type[C], values: dict[str, object], sources: dict[str, str]) -> C:
    try:
        return msgspec.convert(values, type=kind, strict=False)
    except msgspec.ValidationError as error:
        key = next((key for key in values if f"$.{key}`" in str(error)), None)
        if key is None:
            raise ConfigurationError(f"The configuration is not complete: {error}.") from error
        reason = str(error).split(" - at `$")[0]
        raise ConfigurationError(f"{key} = {values[key]!r} (from {sources[key]}) is not allowed: {reason}.") from error
