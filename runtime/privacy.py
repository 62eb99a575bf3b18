"""No engine reports to its vendor: a device reports to its operator and to nobody else.

Since 1.29, ONNX Runtime on Linux uploads events to Microsoft and keeps a device identifier on the disk, unless it is told not
to before it is loaded (microsoft/onnxruntime pull request 27379, Privacy.md). Whoever wants that sets the variable to 0.
"""

from __future__ import annotations

import os

OPT_OUT = "ORT_DISABLE_TELEMETRY"


def keep_private() -> None:
    """Opt out for this process and its children. Must run before an engine is imported: each package that does calls it."""
    os.environ.setdefault(OPT_OUT, "1")  # noqa: TID251 - not our configuration: the only way to tell the engine
