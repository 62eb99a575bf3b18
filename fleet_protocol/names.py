"""The naming rules: what may stand in a topic, a path or a certificate. Checked here and nowhere else."""

from __future__ import annotations

import re
from typing import Annotated, Final

import msgspec

from fleet_protocol.errors import InvalidName

NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9_-]{0,62}\Z"
VERSION_PATTERN: Final = r"^(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})(-[0-9a-z][0-9a-z.-]{0,30})?\Z"

Name = Annotated[str, msgspec.Meta(pattern=NAME_PATTERN)]
"""A device, model, variant or worker name: 1–63 of `a-z 0-9 _ -`, not starting with `_` or `-`."""

Version = Annotated[str, msgspec.Meta(pattern=VERSION_PATTERN)]
"""A semantic version (semver.org) without build metadata: `1.2.3` or `1.2.3-rc.1`."""

_NAME = re.compile(NAME_PATTERN)
_VERSION = re.compile(VERSION_PATTERN)


def check_name(value: str, what: str = "name") -> str:
    """Return `value`, or raise `InvalidName` that says which `what` it was meant to be."""
    if not _NAME.match(value):
        raise InvalidName(f"{value!r} is not a {what}: use 1 to 63 of a-z, 0-9, '-' and '_', starting with a letter or digit")
    return value


def check_version(value: str) -> str:
    """Return `value`, or raise `InvalidName`."""
    if not _VERSION.match(value):
        raise InvalidName(f"{value!r} is not a version: use MAJOR.MINOR.PATCH, such as 1.2.0 or 1.2.0-rc.1")
    return value


def version_key(value: str) -> tuple[tuple[int, ...], bool, tuple[tuple[bool, int, str], ...]]:
    """A sort key in the order of semver.org §11: releases after their own pre-releases. Raises `InvalidName`."""
    core, _, pre = check_version(value).partition("-")
    identifiers = tuple(_identifier_key(part) for part in pre.split(".")) if pre else ()
    return tuple(int(part) for part in core.split(".")), not pre, identifiers


def _identifier_key(part: str) -> tuple[bool, int, str]:
    """Numbers in the order of numbers, before words."""
    return (False, int(part), "") if part.isdigit() else (True, 0, part)
