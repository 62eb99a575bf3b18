"""Runs models on the device: engines behind one interface, a swap-safe host, the activation gate, and a localhost server.

    model = runtime.load(Path("digits.onnx"))  # or a bundle directory
    scores = model({"pixels": batch})["scores"]

Lives here: whatever touches an inference engine, and what applications on the device call. May not live here: MQTT, the
agent's decisions, conversion. Engines are imported when a model is opened and not before, so that `import runtime` is cheap.
"""

from runtime.errors import (
    DeadlineExceeded,
    InferenceFailed,
    InvalidInput,
    MemoryBudgetExceeded,
    ModelRejected,
    ModelUnwell,
    NotServing,
    Overloaded,
    RuntimeFailure,
)
from runtime.hosting.host import Inference, ModelHost, ModelIdentity
from runtime.model import Model
from runtime.opening import load
from runtime.privacy import keep_private

keep_private()

__all__ = [
    "DeadlineExceeded",
    "Inference",
    "InferenceFailed",
    "InvalidInput",
    "MemoryBudgetExceeded",
    "Model",
    "ModelHost",
    "ModelIdentity",
    "ModelRejected",
    "ModelUnwell",
    "NotServing",
    "Overloaded",
    "RuntimeFailure",
    "load",
]
