"""The front door: one `edgeward` command. It composes the packages below, lazily, and decides nothing.

`cli` finds commands, `terminal` shows things to people and pipes, `connection` talks to the central side's API, `broker` runs
Mosquitto as a child, `central` puts the central side together, `demo` plays one model's whole life.
"""

__version__ = "0.1.0"
