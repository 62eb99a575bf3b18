"""NVIDIA's libraries out of Python packages, for onnxruntime's CUDA and TensorRT providers.

`pip install 'onnxruntime-gpu[cuda,cudnn]'` puts cuBLAS, cuDNN and the rest into site-packages, where the linker does not
look. onnxruntime loads them from there only when it is asked to; without, its provider fails for a missing `libcudart.so`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from typing import Final

import onnxruntime as ort

WANTED_BY: Final = frozenset({"CUDAExecutionProvider", "TensorrtExecutionProvider"})


@functools.cache
def load() -> None:
    """Load what is installed, once in the life of the process. What is missing shows when the session is made."""
    if hasattr(ort, "preload_dlls"):  # since 1.21
        ort.preload_dlls()
    with contextlib.suppress(ImportError):  # importing it loads libnvinfer
        importlib.import_module("tensorrt")
