"""Ports for servers that start together."""

from __future__ import annotations

from edgeward.broker import free_ports


def test_free_ports_are_each_another() -> None:
    assert len(set(free_ports(200))) == 200
