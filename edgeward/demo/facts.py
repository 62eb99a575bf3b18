"""What came of the demo: the document of `edgeward demo --json`, and the same for people."""

from __future__ import annotations

from typing import Any

import msgspec
from rich.console import Console

from edgeward import terminal
from edgeward.demo.traffic import Application
from edgeward.fleet_view import DeviceView


class Requests(msgspec.Struct, frozen=True):
    """Questions that applications asked the devices from the first activation to the end."""

    answered: int
    failed: int


class Accuracy(msgspec.Struct, frozen=True, kw_only=True):
    """Share of right answers on the held-out digits, measured at conversion on the release that ends up running."""

    reference: float = msgspec.field(name="float")
    int8: float


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the demo found out."""

    devices: list[DeviceView]
    """As `edgeward devices --json` shows them."""
    requests: Requests
    models: dict[str, Any]
    """By version: what was published, what became of it, and how it did on the devices."""
    bytes_on_wire: int
    """All that the broker received and sent, MQTT bytes without TLS."""
    accuracy: Accuracy
    sizes: dict[str, int]
    """Bytes of each variant of the release that ends up running."""
    seconds: float


def tally(applications: list[Application]) -> Requests:
    """The counts of all applications together."""
    return Requests(
        answered=sum(application.answered for application in applications),
        failed=sum(len(application.failures) for application in applications),
    )


def answers_by_version(applications: list[Application]) -> dict[str, dict[str, float]]:
    """How many answers each version gave, and the share of them that was right."""
    versions: dict[str, dict[str, float]] = {}
    for version in sorted({version for each in applications for version in each.by_version}):
        tallies = [each.by_version[version] for each in applications if version in each.by_version]
        answered = sum(each.answered for each in tallies)
        right = sum(each.right for each in tallies)
        versions[version] = {"answered": answered, "right": right / answered if answered else 0.0}
    return versions


def show(facts: Facts, console: Console) -> None:
    """The same facts as tables and a few words."""
    console.print(
        terminal.table(
            "The releases",
            ["version", "outcome", "answers given", "of them right"],
            [
                (version, each["outcome"], f"{each['answered']:,}", f"{each['right']:.1%}" if each["answered"] else "–")
                for version, each in facts.models["digits"].items()
            ],
            right=["answers given", "of them right"],
        )
    )
    console.print()
    console.print(
        terminal.table(
            "What was shipped",
            ["variant", "size", "of float"],
            [(name, terminal.in_bytes(size), f"{size / facts.sizes['float32']:.0%}") for name, size in facts.sizes.items()],
            right=["size", "of float"],
        )
    )
    console.print()
    console.print(f"Accuracy on held-out digits   float {facts.accuracy.reference:.2%}   int8 {facts.accuracy.int8:.2%}")
    console.print(f"Bytes on the wire             {terminal.in_bytes(facts.bytes_on_wire)}")
    colour = "green" if facts.requests.failed == 0 else "red"
    console.print(
        f"Requests                      {facts.requests.answered:,} answered, [{colour}]{facts.requests.failed} failed[/]"
    )
