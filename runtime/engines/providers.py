"""onnxruntime's execution providers: which there are, in which order they are tried, and what to install for each.

    runtime.load(path, provider="openvino")     # this one, or an error
    runtime.load(path, provider="cuda:1")       # on its second device
    runtime.load(path, provider="auto")         # the first of the table that works here and takes nearly all of the model

Nothing falls back in silence. A provider that was asked for and is missing, does not work, or takes no node of the model is an
error; what it leaves to the CPU stands in `Model.engine`. Whether a provider works is known by running it in a child process,
once: drivers crash. May not live here: opening models (`runtime.engines.onnx_engine`); which one is fastest
(`runtime.tuning.tuner` measures).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Final, Literal

from runtime.errors import ChildFailed, EngineUnavailable

CPU: Final = "cpu"
AUTO: Final = "auto"

_PROBE_TIMEOUT_S: Final = 120.0
"""The first use of a GPU compiles kernels."""


@dataclass(frozen=True, slots=True)
class Plugin:
    """The Python package that plugs a provider into any onnxruntime (`runtime.engines.plugins`)."""

    package: str
    usual: str
    """The device that it takes where none is named."""
    by_option: bool = False
    """It is told its device by the provider's option, and may emulate it; else the device must be there."""


@dataclass(frozen=True, slots=True)
class Provider:
    """One line of the table."""

    name: str
    """What `provider=` takes."""
    key: str
    """onnxruntime's own name."""
    title: str
    device_option: str | None
    """The provider option that `name:DEVICE` sets."""
    install: str
    """What makes it available, for people."""
    options: tuple[tuple[str, str], ...] = ()
    """Provider options that are always set."""
    plugin: Plugin | None = None
    cache: tuple[tuple[str, str], ...] | Literal["context"] = ()
    """How it keeps what it compiles: by provider options, in which `FOLDER` stands for a directory; or as a model of its own
    (onnxruntime's EP context). Empty: it keeps nothing, or compiles nothing."""


def _instead(package: str) -> str:
    return f"pip uninstall onnxruntime, then pip install {package}"


FOLDER: Final = "{folder}"
CONTEXT: Final = "context.onnx"
"""What a provider compiled, as a model beside its binary file."""

_TENSORRT_CACHE: Final = (
    ("trt_engine_cache_enable", "1"),
    ("trt_engine_cache_path", FOLDER),
    ("trt_timing_cache_enable", "1"),
    ("trt_timing_cache_path", FOLDER),
)
_EXACT_CUDA: Final = (("use_tf32", "0"),)
"""Its default rounds float32 to ten bits before it multiplies: answers were off by a thousandth of the largest."""

TABLE: Final = (
    Provider(
        "tensorrt",
        "TensorrtExecutionProvider",
        "TensorRT",
        "device_id",
        _instead("'onnxruntime-gpu[cuda,cudnn]' 'tensorrt-cu13<11'"),
        cache=_TENSORRT_CACHE,
    ),
    Provider("cuda", "CUDAExecutionProvider", "CUDA", "device_id", _instead("'onnxruntime-gpu[cuda,cudnn]'"), _EXACT_CUDA),
    Provider(
        "qnn",
        "QNNExecutionProvider",
        "QNN",
        "backend_type",
        "pip install onnxruntime-qnn",
        plugin=Plugin("onnxruntime_qnn", usual="htp", by_option=True),
        cache="context",
    ),
    Provider(
        "coreml",
        "CoreMLExecutionProvider",
        "CoreML",
        "MLComputeUnits",
        "use the onnxruntime wheel for macOS",
        cache=(("ModelCacheDirectory", FOLDER),),
    ),
    Provider(
        "openvino",
        "OpenVINOExecutionProvider",
        "OpenVINO",
        "device_type",
        "pip install onnxruntime-ep-openvino",
        plugin=Plugin("onnxruntime_ep_openvino", usual="CPU"),
        cache="context",
    ),
    Provider("directml", "DmlExecutionProvider", "DirectML", "device_id", _instead("onnxruntime-directml, on Windows")),
    Provider("xnnpack", "XnnpackExecutionProvider", "XNNPACK", None, "build onnxruntime with --use_xnnpack"),
    Provider(CPU, "CPUExecutionProvider", "CPU", None, "pip install 'edgeward[device]'"),
)
"""In the order in which `auto` tries them: what is built for one kind of chip before what runs on many, the CPU last."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A provider and, where one was named, its device."""

    provider: Provider
    device: str | None = None

    compiled: Path | None = None
    """The directory of what it compiled of the model, which it fills where there is nothing yet."""

    @property
    def options(self) -> dict[str, str]:
        """Provider options, for onnxruntime."""
        chosen = (
            {} if self.device is None or self.provider.device_option is None else {self.provider.device_option: self.device}
        )
        return dict(self.provider.options) | chosen | self._keeping()

    def _keeping(self) -> dict[str, str]:
        if self.compiled is None or self.provider.cache == "context":
            return {}
        return {name: value.replace(FOLDER, str(self.compiled)) for name, value in self.provider.cache}

    def in_place_of(self, model: Path) -> tuple[Path, dict[str, str]]:
        """The file to open for `model`, and the session entries with which it writes one where there is none yet."""
        if self.compiled is None or self.provider.cache != "context":
            return model, {}
        context = self.compiled / CONTEXT
        if context.is_file():
            return context, {}
        return model, {"ep.context_enable": "1", "ep.context_file_path": str(context), "ep.context_embed_mode": "0"}

    @property
    def text(self) -> str:
        """What `parse` makes this of."""
        return self.provider.name + ("" if self.device is None else f":{self.device}")

    def describe(self) -> str:
        """For people: `OpenVINO` or `CUDA:1`."""
        return self.provider.title + ("" if self.device is None else f":{self.device}")


def parse(text: str) -> Asked:
    """`cuda` or `cuda:1` as what it asks for. Raises `EngineUnavailable` for a name that is not in the table."""
    name, _, device = text.partition(":")
    provider = next((each for each in TABLE if each.name == name), None)
    if provider is None:
        known = ", ".join(each.name for each in TABLE)
        raise EngineUnavailable(f"There is no execution provider {name!r}. Known are {known}, and {AUTO}.")
    if device and provider.device_option is None:
        raise EngineUnavailable(f"{provider.title} has no devices to choose from. Ask for {name!r}.")
    return Asked(provider, device or None)


def compiles(text: str) -> bool:
    """Whether that is a provider, with or without a device, that keeps what it compiles of a model."""
    return any(each.cache and each.name == text.partition(":")[0] for each in TABLE)


def present() -> tuple[Provider, ...]:
    """The table's providers that are installed here, in order; whether they work is another question.

    This onnxruntime was built with them, or a package beside it plugs them in. None where onnxruntime is not installed.
    """
    try:
        import onnxruntime as ort
    except ImportError:
        return ()
    built_in = set(ort.get_available_providers())
    return tuple(each for each in TABLE if each.key in built_in or is_plugged_in(each))


def is_plugged_in(provider: Provider) -> bool:
    """Whether a package beside onnxruntime brings this provider."""
    return provider.plugin is not None and util.find_spec(provider.plugin.package) is not None


def working() -> tuple[Provider, ...]:
    """Those present that ran a small model in a child process just now, in order; the CPU is the last."""
    return tuple(each for each in present() if objection(Asked(each)) is None)


def others() -> tuple[str, ...]:
    """The names of those that work here beside the CPU."""
    return tuple(each.name for each in working() if each.name != CPU)


def check(asked: Asked) -> None:
    """Raises `EngineUnavailable` unless the provider is present and works; says what to install."""
    if asked.provider not in present():
        here = ", ".join(each.name for each in present()) or "none"
        raise EngineUnavailable(
            f"The onnxruntime that is installed here has no {asked.provider.title}; it has {here}. "
            f"To get it: {asked.provider.install}."
        )
    why = objection(asked)
    if why is not None:
        raise EngineUnavailable(f"{asked.describe()} is installed and does not work here: {why}")


@functools.cache
def objection(asked: Asked) -> str | None:
    """Why it does not work here, or None: a small model is run in a child process, once in the life of this one."""
    if asked.provider.name == CPU:
        return None
    from runtime.children import Child
    from runtime.engines import provider_child

    try:
        with Child(provider_child.__name__) as child:
            child.ask(provider_child.Try(provider=asked.text), provider_child.Ran, timeout_s=_PROBE_TIMEOUT_S)
    except ChildFailed as error:
        return str(error)
    return None
