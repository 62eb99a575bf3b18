"""The optional packages behind training, imported where they are needed: torch, torch-pruning, torchao.

A missing one is a `SettingsRejected` that says what to install: it was asked for, and no other recipe stands in for it.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from types import ModuleType

from converters.errors import SettingsRejected

_INSTALL = "pip install 'edgeward[convert,compress]'"


def torch() -> ModuleType:
    """PyTorch."""
    return load("torch", "PyTorch")


def torch_pruning() -> ModuleType:
    """Channel pruning along the dependencies of layers."""
    torch()
    return load("torch_pruning", "torch-pruning")


def torchao(name: str) -> ModuleType:
    """A module of torchao, without its talk about kernels for processors that are not here."""
    torch()
    loggers = [logging.getLogger(each) for each in ("torchao", "torch.utils._pytree")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        return load(f"torchao.{name}", "torchao")
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


def load(module: str, package: str) -> ModuleType:
    """Import a module. Raises `SettingsRejected` when its package is not there."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    except ImportError as error:
        raise SettingsRejected(f"This needs {package}, which is not installed: {_INSTALL}.") from error
