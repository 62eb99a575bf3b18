"""What the tuner may try: ways of running a model on this device. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.engines.providers import CPU
from runtime.tuning.record import Candidate, Level, Spinning


@dataclass(frozen=True, slots=True)
class Space:
    """What there is to try. `variants`: as they would be loaded without advice, the publisher's preferred first."""

    variants: tuple[Candidate, ...]
    cores: int
    providers: tuple[str, ...] = ()
    """Of onnxruntime, beside the CPU, as far as they work here."""

    @property
    def entrants(self) -> list[Candidate]:
        """The variants, and those for LiteRT on all cores too: by itself it takes one, and would race alone against many."""
        alone = [each for each in self.variants if each.engine == "litert" and self.cores > 1]
        return [*self.variants, *(varied(each, threads=self.cores) for each in alone)]

    def elsewhere(self, candidate: Candidate) -> list[Candidate]:
        """The same variant on every other execution provider."""
        if candidate.engine == "litert":
            return []
        return [Candidate(variant=candidate.variant, provider=provider) for provider in self.providers]

    def threadings(self, candidate: Candidate) -> list[Candidate]:
        """The same variant with every number of threads and way of waiting that makes sense here."""
        counts = sorted({1, *(2**power for power in range(1, 7) if 2**power < self.cores), self.cores})
        if candidate.engine == "litert":  # which takes one thread where it is told none
            return [varied(candidate, threads=count) for count in counts[1:]]
        made = [varied(candidate, threads=1)] if self.cores > 1 else []
        ways: tuple[Spinning, ...] = ("briefly", "off", "on")
        more = [varied(candidate, threads=None if count == self.cores else count) for count in reversed(counts[1:])]
        return made + [varied(each, spinning=way) for each in more for way in ways]

    def spins(self, candidate: Candidate) -> list[Candidate]:
        """The same with threads that wait a shorter or a longer moment for more work before they sleep."""
        sleep = candidate.engine == "litert" or candidate.provider != CPU or candidate.threads == 1 or self.cores == 1
        tried: tuple[Spinning, ...] = () if sleep else ("10 µs", "500 µs")
        return [varied(candidate, spinning=way) for way in tried]

    def levels(self, candidate: Candidate) -> list[Candidate]:
        """The same with less optimisation: processor-specific layouts are not always the fastest."""
        tried: tuple[Level, ...] = ("extended", "basic")
        on_cpu = candidate.engine != "litert" and candidate.provider == CPU
        return [varied(candidate, level=level) for level in tried] if on_cpu else []


def varied(
    candidate: Candidate, *, threads: int | None = -1, spinning: Spinning = "briefly", level: Level | None = None
) -> Candidate:
    """The same candidate with one thing changed (`threads` −1: as it was)."""
    return Candidate(
        variant=candidate.variant,
        engine=candidate.engine,
        threads=candidate.threads if threads == -1 else threads,
        spinning=spinning if level is None else candidate.spinning,
        level=candidate.level if level is None else level,
        provider=candidate.provider,
    )
