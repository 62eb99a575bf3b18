"""What `edgeward serve` and the agent do when a model holds up the whole server."""

from __future__ import annotations

import subprocess
import sys

from edgeward.hanging import EXIT_HUNG

PROGRAM = "from edgeward import hanging; hanging.end('digits hangs')"


def test_it_says_what_hangs_and_where_and_ends_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == EXIT_HUNG
    assert done.stderr.startswith("digits hangs\n")
    assert "in end" in done.stderr.split("most recent call first", 1)[1]
