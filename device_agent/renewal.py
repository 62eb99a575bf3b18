"""Keeps the device's certificate from ending: a thread that asks for the next one when a third of its life is left.

The connection to the broker takes the new certificate up when it is made anew. Nothing that fails here reaches the agent: what
runs goes on, and the certificate that is there is good for months yet.
"""

from __future__ import annotations

import logging
import threading
from typing import Final

from device_agent import identity
from device_agent.errors import EnrolmentFailed
from device_agent.identity import Enrolled
from fleet_io.clock import Chance, Clock

log = logging.getLogger(__name__)

FIRST_LOOK_S: Final = 60.0
LOOK_S: Final = 6 * 3600.0
"""Between two looks, with up to half more, so that a fleet that was started at once does not ask at once."""
_FAREWELL_S: Final = 5.0


class Renewal:
    """From `start` to `stop`. `server`: where the registry answers."""

    def __init__(self, enrolled: Enrolled, *, server: str, clock: Clock, chance: Chance) -> None:
        self._enrolled, self._server = enrolled, server
        self._clock, self._chance = clock, chance
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="renewal", daemon=True)

    def start(self) -> None:
        """Begin to look, and return at once."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._ending.set()
        self._thread.join(_FAREWELL_S)

    def _run(self) -> None:
        pause = FIRST_LOOK_S * self._chance()
        while not self._ending.wait(pause):
            self._look()
            pause = LOOK_S * (1 + 0.5 * self._chance())

    def _look(self) -> None:
        try:
            if identity.needs_renewal(self._enrolled, self._clock.now()):
                from device_agent import enrolment  # what only a renewal needs

                enrolment.renew(self._enrolled, server=self._server)
                log.info("the certificate was renewed")
        except (EnrolmentFailed, OSError) as error:
            log.warning("the certificate is not renewed yet: %s", error)
        except Exception:  # a fault of ours must not end the looking
            log.exception("the certificate is not renewed yet")
