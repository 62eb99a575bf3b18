"""The errors of this package. Each class is a decision that a caller can make."""

from __future__ import annotations


class RuntimeFailure(Exception):  # not RuntimeError: that is Python's own, and means nothing here
    """A model could not be opened, examined, asked or served; the message says what to do."""


class ModelRejected(RuntimeFailure):
    """This file cannot run on this device. Use another variant or another release; the same bytes will fail again."""


class EngineUnavailable(ModelRejected):
    """The engine that this format needs is not installed, or does not work here. Install the extra that the message names."""


class InvalidInput(RuntimeFailure):
    """The request does not fit the model. Correct the request; the model is well."""


class DecoderMissing(RuntimeFailure):
    """Nothing here can decode pictures, or resample sound. Install the extra that the message names."""


class InferenceFailed(RuntimeFailure):
    """The request was good and the model could not answer. It counts against the model."""


class NotServing(RuntimeFailure):
    """No such model (or not that version) answers here now. Activate it first, or ask for one that does."""


class Overloaded(RuntimeFailure):
    """More is asked of this model than it can answer, and nobody else's place was taken for this. Ask again in a second."""


class DeadlineExceeded(RuntimeFailure):
    """There was no time left to answer this request. Allow more time, or ask when less is asked."""


class ModelUnwell(RuntimeFailure):
    """This model hangs or keeps crashing, and is not asked now. Ask later, or activate another version; others answer."""


class MemoryBudgetExceeded(RuntimeFailure):
    """There is no room for this model within the memory budget. Raise the budget, or use a smaller variant."""


class StreamBroken(RuntimeFailure):
    """Where a stream's items come from, or its results go, is gone or cannot be used. The message says which."""


class InvalidGolden(RuntimeFailure):
    """The golden file cannot be used. Publish the release again with a sound one."""


class GateUnavailable(RuntimeFailure):
    """The gate itself could not work: this says nothing of the candidate. Try again later."""


class MalformedRequest(RuntimeFailure):
    """The body is not an inference request of the Open Inference Protocol. Correct it; the message says where."""


class CannotListen(RuntimeFailure):
    """The address or port cannot be used. Choose another."""


class ProtocolUnavailable(RuntimeFailure):
    """What this protocol needs is not installed. Install the extra that the message names, or do without the protocol."""


class ChildFailed(RuntimeFailure):
    """A child process that did risky work refused, died or hung; this process is well. The message says which."""


class CannotPrepare(RuntimeFailure):
    """This model cannot be prepared here. Load it as it is: it is slower to load, and as good."""


class CannotTune(RuntimeFailure):
    """Not even the default way of running this model works here. Use another release; the message says what failed."""
