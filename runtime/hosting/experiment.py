"""Several versions of one model side by side: each request is answered by the arm that its key falls into.

    split = Split("digits autumn", {"1.0.0": 0.8, "1.1.0": 0.2})
    split.arm("customer 4711")             # always the same arm, in every process and on every device

    experiment = Experiment("digits", split, {"1.0.0": host, "1.1.0": another_host})
    experiment.infer("digits", inputs, key="customer 4711").identity.version

The arm is found by weighted rendezvous hashing (Schindelhauer and Schomaker, "Weighted distributed hash tables", SPAA 2005):
each arm draws a number from the key's hash, and the largest, by weight, wins. So the shares are those of the weights, and an
arm that is added or removed, or whose weight changes, moves only keys to it or away from it: never between two others. An
`Experiment` is something that serves, like the hosts or pools behind it; each counts what its own arm did.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Final

from fleet_protocol.telemetry import ModelUsage
from fleet_protocol.tensors import DataType
from runtime.engine import Array
from runtime.errors import ModelRejected
from runtime.hosting.entrance import Place
from runtime.hosting.host import ModelHost
from runtime.hosting.pool import ModelPool
from runtime.hosting.room import Inference, ModelIdentity, Observer, Served
from runtime.hosting.serving import Serving, Standing

KEY_HEADER: Final = b"edgeward-key"
"""The HTTP header that carries a request's key."""
_BITS: Final = 53
"""As many as a float holds exactly, so that every machine draws the same numbers."""

Arm = ModelHost | ModelPool


class Split:
    """Keys to arms. Pure: the same in every process, version and device, as long as `salt`, names and weights are the same."""

    def __init__(self, salt: str, weights: Mapping[str, float]) -> None:
        """`weights` above 0, by the arm's name, in any unit; `salt` tells experiments apart. Raises `ValueError`."""
        if not weights or not all(0 < weight < math.inf for weight in weights.values()):
            raise ValueError(f"The weights are {dict(weights)}; wanted at least one arm, each of a finite weight above 0.")
        self._salt = salt
        self._weights = dict(weights)

    def arm(self, key: str) -> str:
        """The arm of `key`."""
        return max(self._weights, key=lambda name: (self._score(name, key), name))

    def _score(self, name: str, key: str) -> float:
        digest = hashlib.sha256()
        for part in (self._salt, name, key):
            content = part.encode("utf-8", "surrogatepass")
            digest.update(len(content).to_bytes(8, "big") + content)
        drawn = int.from_bytes(digest.digest()[:8], "big") >> (64 - _BITS)
        return -self._weights[name] / math.log((drawn + 0.5) / (1 << _BITS))


class Experiment:
    """Serves one model from several arms; see `runtime.hosting.serving.Serving`. Every method may be called from any thread.

    A request without a key is answered by the first of `arms`, one for a version by the arm that has it.
    """

    def __init__(self, model_name: str, split: Split, arms: Mapping[str, Arm]) -> None:
        """Each of `arms`, named as in `split`, has a version of `model_name` active; whoever made them closes them.

        Raises `ModelRejected` when their inputs have other names or types, so that one refuses what the other answers.
        """
        _check_inputs([arm.describe(model_name) for arm in arms.values()])
        self._name = model_name
        self._split = split
        self._arms = dict(arms)
        self._control = next(iter(self._arms.values()))

    def infer(self, model_name: str, inputs: Mapping[str, Array], *, key: str | None = None) -> Inference:
        """The answer of the key's arm; it names its version. Raises what `ModelHost.infer` raises."""
        return self.arm_of(key).infer(model_name, inputs)

    def arm_of(self, key: str | None) -> Arm:
        """Who answers requests with this key."""
        return self._control if key is None else self._arms[self._split.arm(key)]

    def take_usage(self, now: float) -> list[ModelUsage]:
        """What each version did since the last call (`now`: epoch seconds)."""
        return [usage for arm in self._arms.values() for usage in arm.take_usage(now)]

    def at_hand(self, model_name: str) -> bool:
        """See `Serving`."""
        return all(arm.at_hand(model_name) for arm in self._arms.values())

    def fetch(self, model_name: str, *, deadline: float | None = None) -> None:
        """See `Serving`."""
        for arm in self._arms.values():
            arm.fetch(model_name, deadline=deadline)

    def place(
        self,
        model_name: str,
        *,
        version: str | None = None,
        deadline: float | None = None,
        priority: int = 0,
    ) -> Place:
        """See `ModelHost.place`."""
        arm = self._with(version)
        return arm.place(model_name, version=version, deadline=deadline, priority=priority)

    def describe(self, model_name: str, *, version: str | None = None) -> Served:
        """See `Serving`."""
        return self._with(version).describe(model_name, version=version)

    def identities(self) -> tuple[ModelIdentity, ...]:
        """See `Serving`: every arm's."""
        return tuple(each for arm in self._arms.values() for each in arm.identities())

    def active(self) -> tuple[Served, ...]:
        """See `Serving`: every arm's."""
        return tuple(each for arm in self._arms.values() for each in arm.active())

    def standings(self) -> tuple[Standing, ...]:
        """See `Serving`: every arm's."""
        return tuple(each for arm in self._arms.values() for each in arm.standings())

    def observe(self, model_name: str, observer: Observer | None) -> None:
        """See `Serving`: of the first arm, so that an observer hears of one version."""
        self._control.observe(model_name, observer)

    def observer(self, model_name: str) -> Observer | None:
        """See `Serving`."""
        return self._control.observer(model_name)

    def _with(self, version: str | None) -> Arm:
        """The arm that has the version, else the first one, which says what there is."""
        if version is None:
            return self._control
        versions = ((arm, each.version) for arm in self._arms.values() for each in arm.identities() if each.model == self._name)
        return next((arm for arm, has in versions if has == version), self._control)


def _check_inputs(arms: list[Served]) -> None:
    first, *others = arms
    for other in others:
        if _taken(other) != _taken(first):
            told = (
                f"{each.identity.version} takes {', '.join(spec.describe() for spec in each.inputs)}" for each in (other, first)
            )
            raise ModelRejected(f"{first.identity.model} {'; '.join(told)}. Versions that share requests take the same inputs.")


def _taken(served: Served) -> dict[str, DataType]:
    return {spec.name: spec.datatype for spec in served.inputs}


def serving_for(serving: Serving, key: str | None) -> Serving:
    """Who answers a request with this key: the key's arm of an experiment, else `serving` itself."""
    return serving.arm_of(key) if isinstance(serving, Experiment) else serving
