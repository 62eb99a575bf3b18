"""W3C Trace Context: which `traceparent` is one. Whoever asks names the trace; the server repeats and logs it."""

from __future__ import annotations

import re
from typing import Final

_TRACEPARENT: Final = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[\x21-\x7e]{1,200})?"
)
"""W3C Trace Context §3.2; a later version may say more behind it."""


def trace_of(said: bytes | None) -> bytes | None:
    """What a request's `traceparent` says, when it is one."""
    return said if said is not None and _TRACEPARENT.fullmatch(said) else None
