"""Fixtures of the runtime's unit tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture
def restless_threads() -> Iterator[None]:
    """Threads take turns as often as the interpreter can, so that what is not safe among them shows."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)
