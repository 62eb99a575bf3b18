"""What all tests share: how Hypothesis looks for examples. Its time limits measure a busy machine, not our code."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("edgeward", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("edgeward")
