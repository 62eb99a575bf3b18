"""What all tests share: how Hypothesis looks for examples, and engines that tell nobody.

Hypothesis' time limits measure a busy machine, not our code: there are none.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

from runtime.privacy import keep_private

keep_private()
settings.register_profile("edgeward", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("edgeward")
