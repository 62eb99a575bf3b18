"""Which weights stay: masks of zeros and ones for magnitude and N:M pruning. Pure arithmetic on arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.floating]
Mask = NDArray[np.bool_]


def magnitude_mask(weights: Weights, amount: float) -> Mask:
    """True for what stays when the `amount` in [0, 1) of smallest magnitude goes; of equal ones, later ones go first."""
    kept = weights.size - int(amount * weights.size)
    order = np.argsort(-np.abs(weights).ravel(), kind="stable")
    mask = np.zeros(weights.size, dtype=np.bool_)
    mask[order[:kept]] = True
    return mask.reshape(weights.shape)


def n_m_mask(weights: Weights, n: int, m: int) -> Mask | None:
    """True for the `n` largest of each `m` neighbours along axis 1, the input channels (axis 0: outputs).

    A shorter group at the end keeps its share, rounded up. None where there are fewer than `m` input channels.
    """
    channels = weights.shape[1]
    if channels < m:
        return None
    last = np.moveaxis(np.abs(weights), 1, -1)
    mask = np.zeros(last.shape, dtype=np.bool_)
    for start in range(0, channels, m):
        group = last[..., start : start + m]
        kept = -(-n * group.shape[-1] // m)
        order = np.argsort(-group, axis=-1, kind="stable")[..., :kept]
        np.put_along_axis(mask[..., start : start + m], order, values=True, axis=-1)
    return np.moveaxis(mask, -1, 1)
