"""What `edgeward serve` does when a model holds up the whole server."""

from __future__ import annotations

import subprocess
import sys

from edgeward.commands.serve import EXIT_HUNG

PROGRAM = "from edgeward.commands import serve; serve._end('digits hangs')"


def test_it_says_what_hangs_and_where_and_ends_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == EXIT_HUNG
    assert done.stderr.startswith("digits hangs\n")
    assert "_end" in done.stderr.split("most recent call first", 1)[1]
