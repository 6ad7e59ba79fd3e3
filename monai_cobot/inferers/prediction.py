"""From prompts on a slice to a mask of the slice."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from monai_cobot.inferers.adapters import AdaptedSam
from monai_cobot.inferers.cancel import CancelToken
from monai_cobot.inferers.prompts import SlicePrompts
from monai_cobot.inferers.slice_encoder import SliceEncoder

__all__ = ["SlicePrediction", "SlicePredictor"]


@dataclass(frozen=True, eq=False)
class SlicePrediction:
    """What the network makes of a slice.

    Attributes:
        logits: (H, W) float32, above 0 inside.
        quality: the decoder's own prediction of the mask's IoU with the truth, about 0 to 1.
    """

    logits: np.ndarray
    quality: float

    @cached_property
    def mask(self) -> np.ndarray:
        """(H, W) bool."""
        return self.logits > 0


class SlicePredictor:
    """One model on the slices of one volume, for one piece of work.

    Args:
        model: what segments.
        preset: intensity preset of the slices.
        encoder: the volume's.
        cancel: is looked at in every slice.
    """

    def __init__(self, model: AdaptedSam, preset: str, encoder: SliceEncoder, cancel: CancelToken) -> None:
        self.model = model
        self.cancel = cancel
        self._preset = preset
        self._encoder = encoder

    def image(self, axis: str, index: int) -> np.ndarray:
        """(H, W) in [0, 1], the mean of its channels."""
        return self._encoder.image(self._preset, axis, index)[0].mean(0).numpy()

    def spacing(self, axis: str) -> tuple[float, float, float]:
        """Millimetres between slices, between rows and between columns."""
        return self._encoder.spacing(axis)

    @torch.no_grad()
    def __call__(self, axis: str, index: int, prompts: SlicePrompts) -> SlicePrediction:
        """Segment one object in a slice.

        Raises:
            ValueError: the prompts do not fit the slice, or there is no such slice.
            Cancelled: if so asked.
        """
        self.cancel.check()
        shape = self._encoder.shape(axis)
        prompts.check(shape)
        embedding = self._encoder.embedding(self.model, self._preset, axis, index, self.cancel)
        box = None if prompts.box is None else torch.tensor([[prompts.box]], dtype=torch.float32)  # (1, 1, 4)
        points = labels = None
        if prompts.points:
            points = torch.tensor([[[(point.x, point.y) for point in prompts.points]]], dtype=torch.float32)
            labels = torch.tensor([[[int(point.inside) for point in prompts.points]]])  # (1, 1, P)
        logits, quality = self.model.network.decode(embedding, box, shape, points, labels)
        return SlicePrediction(logits[0, 0].cpu().numpy(), float(quality))
