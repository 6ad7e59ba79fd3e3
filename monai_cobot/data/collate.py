"""Samples of one size put together to a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate, get_worker_info

__all__ = ["collate_slices"]


def collate_slices(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A batch of samples of a `SliceDataset`, of which some may be grey and some in colour.

    Where all are grey, one channel stays one: a third of the memory that has to be filled.

    Args:
        samples: with ``image`` (1 or 3, H, W) and ``label`` (1, H, W), all of one height and width.

    Returns:
        The batch, ``image`` (B, 1 or 3, H, W) and ``label`` (B, 1, H, W).
    """
    # in a worker into memory that the loader's process shares
    stack = _stacked if get_worker_info() is None else default_collate
    channels = max(len(sample["image"]) for sample in samples)
    images = stack([sample["image"].expand(channels, -1, -1) for sample in samples])
    labels = stack([sample["label"] for sample in samples])
    rest = [{key: value for key, value in sample.items() if key not in ("image", "label")} for sample in samples]
    return {"image": images, "label": labels, **default_collate(rest)}


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """`torch.stack`, into memory in huge pages, for which NumPy asks: filling new pages of 4 kB takes twice as long."""
    shape = (len(tensors), *tensors[0].shape)
    return torch.stack(list(tensors), out=torch.from_numpy(np.empty(shape, np.float32)))
