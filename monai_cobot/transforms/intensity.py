"""From what a scanner measured to the [0, 1] that the network expects.

A range is computed once a volume, so that all its slices share one scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import MapTransform, Transform

__all__ = [
    "INTENSITY_PRESETS",
    "IntensityPreset",
    "ScaleIntensityPreset",
    "ScaleIntensityPresetd",
    "find_preset",
    "intensity_range",
    "scale_intensity",
]


@dataclass(frozen=True)
class IntensityPreset:
    """How a range of intensities is chosen: a fixed window, or percentiles of the voxels that are not 0.

    Attributes:
        description: what it is for, in a line.
        window: (low, high) in the unit of the image, HU for CT.
        percentiles: (low, high) in percent; read only where there is no window.
    """

    description: str
    window: tuple[float, float] | None = None
    percentiles: tuple[float, float] = (0.5, 99.5)


INTENSITY_PRESETS: dict[str, IntensityPreset] = {
    "ct_sam_cobot": IntensityPreset("CT, -500 to 1000 HU, as SAM-COBOT (CVPR 2024) clips it", (-500, 1000)),
    "ct_abdomen": IntensityPreset("CT, soft tissue of the abdomen: level 40, width 400 HU", (-160, 240)),
    "ct_head_neck": IntensityPreset("CT, soft tissue of head and neck: level 50, width 350 HU", (-125, 225)),
    "ct_lung": IntensityPreset("CT, lung: level -600, width 1500 HU", (-1350, 150)),
    "ct_bone": IntensityPreset("CT, bone: level 400, width 1800 HU", (-500, 1300)),
    "mr": IntensityPreset("MR: percentiles 0.5 to 99.5 of the voxels that are not 0"),
    "ultrasound": IntensityPreset("ultrasound in 8 bits", (0, 255)),
    "photo": IntensityPreset("colour or grey photograph in 8 bits", (0, 255)),
}


def find_preset(name: str) -> IntensityPreset:
    """The preset of this name, or the window said as "window:low,high", such as "window:-160,240".

    Raises:
        ValueError: for an unknown name, or a window that is not two rising numbers.
    """
    if name in INTENSITY_PRESETS:
        return INTENSITY_PRESETS[name]
    if not name.startswith("window:"):
        known = ", ".join(INTENSITY_PRESETS)
        raise ValueError(f'unknown intensity preset {name!r}; choose one of {known}, or a window as "window:-160,240".')
    try:
        low, high = (float(number) for number in name.removeprefix("window:").split(","))
    except ValueError:
        raise ValueError(f'{name!r} is not two numbers; write a window as "window:-160,240".') from None
    if not (np.isfinite([low, high]).all() and low < high):
        raise ValueError(f"{name!r} is not a window: the first number must be less than the second.")
    return IntensityPreset("a window given by its ends", (low, high))


def intensity_range(volume: NdarrayOrTensor, preset: IntensityPreset | str) -> tuple[float, float]:
    """The intensities of a volume that become 0 and 1.

    Args:
        volume: any shape, in the unit of the image.
        preset: a preset, or a name that `find_preset` knows.

    Raises:
        ValueError: for an unknown preset, or where percentiles are asked of a volume with nothing to measure.
    """
    preset = find_preset(preset) if isinstance(preset, str) else preset
    if preset.window is not None:
        return preset.window
    values = np.asarray(volume)
    # Background is 0 in MR: counting it would let the amount of air decide on the contrast.
    values = values[values != 0]
    if values.size == 0:
        raise ValueError("the image is 0 everywhere, so that no intensity range can be measured.")
    low, high = (float(value) for value in np.percentile(values, preset.percentiles))
    if not low < high:
        raise ValueError(
            f"percentiles {preset.percentiles} of the voxels that are not 0 coincide at {low:g}, so that there is no "
            'contrast to scale; give a window instead, such as "window:0,255".'
        )
    return low, high


def scale_intensity(image: NdarrayOrTensor, low: float, high: float) -> torch.Tensor:
    """Clips to [low, high] and maps it onto [0, 1].

    Returns:
        float32 tensor of the image's shape; a new one, the image is left as it is.
    """
    scaled = np.asarray(image).astype(np.float32)
    scaled -= np.float32(low)
    scaled *= np.float32(1 / (high - low))
    return torch.from_numpy(np.clip(scaled, 0, 1, out=scaled))


class ScaleIntensityPreset(Transform):
    """Scales an image to float32 in [0, 1] with the range that a preset finds in it.

    Args:
        preset: a name that `find_preset` knows.

    Raises:
        ValueError: for an unknown preset.
    """

    def __init__(self, preset: str) -> None:
        self.preset = find_preset(preset)

    def __call__(self, image: NdarrayOrTensor) -> torch.Tensor:
        return scale_intensity(image, *intensity_range(image, self.preset))


class ScaleIntensityPresetd(MapTransform):
    """`ScaleIntensityPreset` on the entries ``keys``."""

    def __init__(self, keys: KeysCollection, preset: str, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.scale = ScaleIntensityPreset(preset)

    def __call__(self, data: Any) -> dict[Any, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.scale(result[key])
        return result
