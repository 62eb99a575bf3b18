"""Bundles as the converters' callers see them: open one, and read the reports inside.

Writing and verifying directories is `fleet_io.bundle_directory`'s work, which publishing uses too.
"""

from __future__ import annotations

from converters.report.parity import TIMING_FILE, ParityReport, Timing, decode_report, decode_timing
from fleet_io.bundle_directory import Bundle, open_bundle

__all__ = ["Bundle", "open_bundle", "read_report", "read_timing"]


def read_report(bundle: Bundle) -> ParityReport:
    """The bundle's parity report. Raises `ProtocolError` when another tool wrote something else there."""
    return decode_report(bundle.path(bundle.manifest.parity).read_bytes())


def read_timing(bundle: Bundle) -> Timing | None:
    """What was measured on the machine that converted, where the bundle is still there; None elsewhere."""
    path = bundle.directory / TIMING_FILE
    return decode_timing(path.read_bytes()) if path.is_file() else None
