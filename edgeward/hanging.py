"""What a program that serves does when a model that hangs holds it up."""

from __future__ import annotations

import faulthandler
import os
from typing import Final

import click

EXIT_HUNG: Final = 70
"""The process's status then."""


def end(why: str) -> None:
    """Say what hangs and where, and end at once: whoever keeps this program running starts it again."""
    click.echo(why, err=True)
    faulthandler.dump_traceback()
    os._exit(EXIT_HUNG)
