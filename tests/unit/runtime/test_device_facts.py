"""What was compiled for one GPU and driver is not taken on another."""

from __future__ import annotations

from pathlib import Path

from runtime.device_facts import accelerators

VERSION = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15\nGCC version:  gcc version 12.2.0\n"
INFORMATION = "Model: \t\t NVIDIA H200\nIRQ:   \t\t 45\nGPU UUID: \t GPU-0\n"


def test_nvidias_gpus_and_driver_are_told_from_what_the_kernel_says(tmp_path: Path) -> None:
    (tmp_path / "gpus" / "0000:01:00.0").mkdir(parents=True)
    (tmp_path / "version").write_text(VERSION)
    (tmp_path / "gpus" / "0000:01:00.0" / "information").write_text(INFORMATION)
    assert accelerators(tmp_path) == ("NVRM version: NVIDIA UNIX x86_64 Kernel Module 570.86.15", "Model: NVIDIA H200")


def test_a_device_without_them_has_none(tmp_path: Path) -> None:
    assert accelerators(tmp_path / "nothing") == ()
