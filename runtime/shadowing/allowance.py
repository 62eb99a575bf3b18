"""What a shadow may take. Apart, so that who only says it pays for no shadow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fleet_protocol.limits import MIB


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a shadow may take.

    `share` in (0, 1] of the requests is sampled by chance; `cpu_share` in (0, 1] of one core; copies that wait are at most
    `queue_copies` and hold at most `queue_bytes`; the candidate's process takes `memory_bytes` of address space and `threads`
    threads. An answer within `timeout_s`, or it counts as hung; after `crashes` crashes and hangs the shadow ends.
    """

    share: float = 0.1
    cpu_share: float = 0.05
    queue_copies: int = 256
    queue_bytes: int = 16 * MIB
    memory_bytes: int = 2048 * MIB
    threads: int = 1
    timeout_s: float = 30.0
    crashes: int = 3


USUAL: Final = Allowance()
