"""The file that lets an operator in, edited by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeward.connection import OperatorProfile, connect, write_profile
from edgeward.errors import ServerUnreachable
from tests.support.certificates import TestAuthority


@pytest.mark.parametrize("change", [{"authority": "x"}, {"token": "é"}])
def test_a_profile_that_cannot_be_used_is_named(tmp_path: Path, change: dict[str, str]) -> None:
    authority = TestAuthority(tmp_path / "authority").certificate.read_text()
    write_profile(tmp_path, OperatorProfile(**{"url": "https://127.0.0.1:1", "authority": authority, "token": "t"} | change))
    with pytest.raises(ServerUnreachable, match=r"operator\.json cannot be read"):
        connect(tmp_path)
