"""The README's first command for a device is complete: whoever types it gets as far as the claim."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgeward import cli

README = Path(__file__).parents[3] / "README.md"


def test_the_agent_of_the_readme_wants_nothing_but_a_real_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = re.search(r"^edgeward (agent run .*?)\s+#", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        cli.main(found.group(1).split())
    assert "This is not a claim token." in capsys.readouterr().err
