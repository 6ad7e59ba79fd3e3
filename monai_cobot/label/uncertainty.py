"""How sure a model is of an image that nobody labelled yet."""

from __future__ import annotations

import numpy as np

from monai_cobot.inferers import CancelToken, VolumeSession
from monai_cobot.inferers.grid import SLICE_NORMALS, slice_shape

__all__ = ["image_uncertainty", "mask_uncertainty"]

_SEEN = 0.1


def image_uncertainty(
    session: VolumeSession, label: int = 1, num_slices: int = 3, cancel: CancelToken | None = None
) -> float:
    """The uncertainty of an image: the mean of :func:`mask_uncertainty` over some of its slices.

    The slices lie evenly along the model's axis, away from the ends; each is prompted with a box around all of it, as
    nobody has said yet where the object is.

    Args:
        session: over the image, with the model.
        label: of an object of the session, which is begun and removed.
        num_slices: at most so many slices.
        cancel: stops it.

    Returns:
        In bits, 0 to 1.

    Raises:
        Cancelled: if so asked.
    """
    axis = session.model.axis
    count = session.shape[SLICE_NORMALS[axis]]
    rows, columns = slice_shape(session.shape, axis)
    indices = np.unique(np.linspace(0, count - 1, min(num_slices, count) + 2).round().astype(int)[1:-1])
    box = (0.0, 0.0, float(columns), float(rows))
    try:
        found = [
            mask_uncertainty(session.segment_slice(axis, int(index), box, label=label, cancel=cancel).logits)
            for index in indices
        ]
    finally:
        if label in session.objects:
            session.remove(label)
    return float(np.mean(found))


def mask_uncertainty(logits: np.ndarray) -> float:
    """The mean entropy of the predicted probabilities, over the pixels where the model sees the object or doubts it.

    Those are the pixels of a probability of at least 0.1: over all pixels, a small object would always count as sure.

    Args:
        logits: (H, W).

    Returns:
        In bits: 0 where all of these pixels are certain, 1 where all of them have the probability 0.5, and 1 where
        there are none: a slice in which the model finds nothing tells us least.
    """
    probability = 1 / (1 + np.exp(-logits.astype(np.float64).clip(-40, 40)))
    seen = probability[probability >= _SEEN]
    if seen.size == 0:
        return 1.0
    other = 1 - seen
    entropy = -seen * np.log2(seen) - other * np.log2(np.maximum(other, 1e-300))
    return float(entropy.mean())
