"""The child that tries an execution provider: `python -m runtime.engines.provider_child`, asked by `runtime.engines.providers`.

It runs a small model on that provider and compares the answer, so that a driver that crashes, hangs or computes nonsense is
known before the process that serves depends on it.
"""

from __future__ import annotations

import base64
from typing import Final

import msgspec
import numpy as np

from runtime.engines import providers
from runtime.errors import EngineUnavailable, RuntimeFailure

_TRIAL: Final = base64.b64decode(
    b"CAg6mwEKEQoBeAoBdxIBeiIGTWF0TXVsCgwKAXoSAXkiBFJlbHUSAXQqSwgECAQQAUIBd0pAAAAAQAAAAAAAAAAAAAAAAAAAAAAAAABAAAAAAAAA"
    b"AAAAAAAAAAAAAAAAAEAAAAAAAAAAAAAAAAAAAAAAAAAAQFoTCgF4Eg4KDAgBEggKAggBCgIIBGITCgF5Eg4KDAgBEggKAggBCgIIBEIECgAQDQ=="
)
"""An ONNX model: `x` float32[1, 4] times two, and nothing below zero, to `y`."""


class Try(msgspec.Struct, frozen=True, kw_only=True):
    """Which provider, as `runtime.engines.providers` writes it."""

    provider: str


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """It answered, and right."""


def attempt(order: Try) -> Ran:
    """Run the trial. Raises `EngineUnavailable`."""
    from runtime.engines.onnx_engine import open_session, said

    try:
        session, _ = open_session(_TRIAL, {}, 1, providers.parse(order.provider))
    except RuntimeFailure:
        raise
    except Exception as error:  # onnxruntime's errors have no common root
        raise EngineUnavailable(f"it cannot be started: {said(error)}") from error
    given = np.array([[-1, 0, 1, 2]], np.float32)
    (answer,) = session.run(None, {"x": given})
    if not np.allclose(answer, [[0, 0, 2, 4]], atol=0.05):  # some providers compute in half precision
        raise EngineUnavailable(f"it answers {answer.tolist()} where [[0, 0, 2, 4]] is right.")
    return Ran()


if __name__ == "__main__":
    from runtime.children import serve

    serve(Try, attempt)
