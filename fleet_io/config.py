"""Configuration, read once: TOML file, then environment, then flags, into one frozen dataclass.

A key that is unknown, or a value that does not fit, stops the program with its name, what was given and what is allowed. In
the environment, where other programs' variables may share our prefix, only a near miss of a known name counts as unknown.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from fleet_io.errors import ConfigurationError

C = TypeVar("C")


def load(kind: type[C], *, file: Path | None, prefix: str, environ: Mapping[str, str], flags: Mapping[str, object | None]) -> C:
    """Read a frozen dataclass `kind`, whose field types carry the allowed values (`msgspec.Meta`).

    `file` is TOML or None; `environ` is searched for `PREFIX_KEY`, lists with commas; a flag of None was not given. Fields may
    be paths. Raises `ConfigurationError`.
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
    return _convert(kind, values, sources, prefix)


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
    hints = typing.get_type_hints(kind)
    names = {f"{prefix}_{key.upper()}": key for key in _keys(kind)}
    for name in environ:
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.9) if name.startswith(prefix + "_") else []
        if near and name not in names:
            raise ConfigurationError(f"The environment sets {name}, which is not a setting. Did you mean {near[0]}?")
    return {
        key: _listed(environ[name]) if typing.get_origin(hints[key]) in (tuple, list) else environ[name]
        for name, key in names.items()
        if name in environ
    }


def _listed(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]


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


def _check_complete(kind: type[object], values: Mapping[str, object], prefix: str) -> None:
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]  # _keys has refused what is no dataclass
        wanted = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if wanted and field.name not in values:
            flag, variable = field.name.replace("_", "-"), f"{prefix}_{field.name.upper()}"
            raise ConfigurationError(
                f"The configuration is not complete: `{field.name}` is missing. "
                f"Give --{flag}, {variable} in the environment, or {field.name} in the configuration file."
            )


def _convert(kind: type[C], values: dict[str, object], sources: dict[str, str], prefix: str) -> C:
    _check_complete(kind, values, prefix)
    try:
        return msgspec.convert(values, type=kind, strict=False, dec_hook=_as_path)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$.")
        key = re.split(r"\W", place)[0]
        if key not in values:
            raise ConfigurationError(f"The configuration is not complete: {reason}.") from error
        within = "" if place.rstrip("`") == key else f" at {place.rstrip('`')}"
        raise ConfigurationError(f"{key} = {values[key]!r} (from {sources[key]}) is not allowed{within}: {reason}.") from error


def _as_path(kind: type[object], value: object) -> object:
    if kind is Path and isinstance(value, str | Path):
        return Path(value)
    raise TypeError(f"Expected `{kind.__name__}`, got `{type(value).__name__}`")
