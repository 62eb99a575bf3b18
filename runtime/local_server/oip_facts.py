"""What the Open Inference Protocol says of a server and its models, and what its repository extension does, as plain data.

The JSON of HTTP is these values as they stand, the messages of gRPC are filled from them. Nothing here knows either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final, Literal

from fleet_protocol.tensors import DataType, TensorSpec
from runtime.errors import ModelRejected, RuntimeFailure
from runtime.hosting.host import Served
from runtime.hosting.repository import Repository
from runtime.local_server.answering import Answering, refusal
from runtime.local_server.exchange import Refused
from runtime.local_server.serving_statistics import Spent, Totals

NAME: Final = "edgeward"
PROTOCOL_VERSION: Final = "2"
EXTENSIONS: Final = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "statistics",
)

_CONFIG_TYPES: Final[dict[DataType, str]] = {"BYTES": "TYPE_STRING"}
"""Model configurations call a datatype `TYPE_` and its name, but for these."""

Change = Literal["load", "unload"]


class OpenInferenceFacts:
    """Facts of one host's models. Without a repository, clients cannot load or unload."""

    def __init__(self, answering: Answering, repository: Repository | None) -> None:
        self._answering = answering
        self._repository = repository

    def ready(self) -> bool:
        """Whether any model answers."""
        return bool(self._answering.host.identities())

    def model_ready(self, name: str, version: str | None) -> bool:
        """Whether it answers when it is asked; one that is loaded on demand is not loaded for this. Raises `Refused` (404)."""
        host = self._answering.host
        if host.at_hand(name):
            return not self._answering.describe(name, version).stuck
        if not any(each.model == name and version in (None, each.version) for each in host.identities()):
            raise Refused(404, f"{name} {version} is not offered here.")
        return True

    def statistics(self, models: Iterable[Served]) -> dict[str, object]:
        """What was counted of these models' active versions."""
        totals = self._answering.statistics
        return {"model_stats": [_stats(each, totals.of(each.identity.model, each.identity.version)) for each in models]}

    def all_statistics(self) -> dict[str, object]:
        """What was counted of everything that is active. Raises `Refused` when something ended just now."""
        return self.statistics(self._answering.host.active())

    def index(self, *, only_ready: bool) -> list[dict[str, str]]:
        """The repository's models, ordered by name; without a repository what is active."""
        if self._repository is None:
            ready = [_index_entry(each.model, each.version, ready=True) for each in self._answering.host.identities()]
            return sorted(ready, key=lambda each: each["name"])
        entries = [each for each in self._repository.index() if each.ready or not only_ready]
        return [_index_entry(each.name, each.version, ready=each.ready) for each in entries]

    async def change(self, name: str, change: Change, parameters: Sequence[str]) -> None:
        """Load or unload a model. `parameters`: names of those that the request has. Raises `Refused`."""
        repository = self._repository
        if repository is None:
            raise Refused(
                403, f"What runs here is decided by whoever started this server (on a device: the agent). No {change}."
            )
        if change == "load" and parameters:
            raise Refused(400, f"A load takes no parameters here ({', '.join(parameters)}): the bundle says how it is run.")
        work = repository.load if change == "load" else repository.unload
        try:
            await asyncio.get_running_loop().run_in_executor(self._answering.threads, work, name)
        except ModelRejected as error:
            raise Refused(400, str(error)) from error
        except RuntimeFailure as error:
            raise refusal(error) from error


def server() -> dict[str, object]:
    """Who answers, and what it speaks."""
    return {"name": NAME, "version": PROTOCOL_VERSION, "extensions": EXTENSIONS}


def metadata(served: Served) -> dict[str, object]:
    """A model's inputs and outputs."""
    return {
        "name": served.identity.model,
        "versions": [served.identity.version],
        "platform": served.engine,
        "inputs": _specs(served.inputs),
        "outputs": _specs(served.outputs),
    }


def _specs(specs: Iterable[TensorSpec]) -> list[dict[str, object]]:
    return [{"name": spec.name, "datatype": spec.datatype, "shape": spec.shape} for spec in specs]


def config(served: Served) -> dict[str, object]:
    """As Triton writes a model's configuration. Shapes are whole, the batch too, so `max_batch_size` is 0."""
    return {
        "name": served.identity.model,
        "platform": served.engine,
        "backend": served.engine.split()[0].rstrip(","),
        "version_policy": {"specific": {"versions": [served.identity.version]}},
        "max_batch_size": 0,
        "input": _config_tensors(served.inputs),
        "output": _config_tensors(served.outputs),
        "parameters": {
            "variant": {"string_value": served.identity.variant},
            "manifest": {"string_value": served.identity.manifest},
        },
    }


def _config_tensors(specs: Iterable[TensorSpec]) -> list[dict[str, object]]:
    return [
        {
            "name": spec.name,
            "data_type": _CONFIG_TYPES.get(spec.datatype, f"TYPE_{spec.datatype}"),
            "format": "FORMAT_NONE",
            "dims": spec.shape,
        }
        for spec in specs
    ]


def _stats(served: Served, totals: Totals) -> dict[str, object]:
    answered = totals.outcomes["answered"]
    spent: Spent = totals.spent
    failed = sum(count for outcome, count in totals.outcomes.items() if outcome != "answered")
    return {
        "name": served.identity.model,
        "version": served.identity.version,
        "last_inference": int(totals.last * 1000),
        "inference_count": totals.samples,
        "execution_count": answered,
        "inference_stats": {
            "success": {"count": answered, "ns": spent.total()},
            "fail": {"count": failed, "ns": totals.failed_ns},
            "queue": {"count": answered, "ns": spent.queue},
            "compute_input": {"count": answered, "ns": spent.decode},
            "compute_infer": {"count": answered, "ns": spent.infer},
            "compute_output": {"count": answered, "ns": spent.encode},
            "cache_hit": {"count": 0, "ns": 0},
            "cache_miss": {"count": 0, "ns": 0},
        },
        "batch_stats": [],
    }


def _index_entry(name: str, version: str, *, ready: bool) -> dict[str, str]:
    if ready:
        return {"name": name, "version": version, "state": "READY", "reason": ""}
    return {"name": name, "version": version, "state": "UNAVAILABLE", "reason": "not loaded"}
