"""Transforms on slices and boxes, each on arrays and, with a ``d``, on dictionaries."""

from monai_cobot.transforms.boxes import (
    JITTER_DIRECTIONS,
    BoxFromMask,
    BoxFromMaskd,
    RandJitterBox,
    RandJitterBoxd,
    box_from_mask,
    check_box,
    jitter_box,
)
from monai_cobot.transforms.intensity import (
    INTENSITY_PRESETS,
    IntensityPreset,
    ScaleIntensityPreset,
    ScaleIntensityPresetd,
    find_preset,
    intensity_range,
    scale_intensity,
)
from monai_cobot.transforms.resize import ResizeLongestSide, ResizeLongestSided
from monai_cobot.transforms.slices import (
    SLICE_AXES,
    TakeSlice,
    TakeSliced,
    place_slice,
    slices_of,
    take_slice,
    volume_from_slices,
)
from monai_cobot.transforms.stand_ins import inscribed_ellipse, otsu_in_box

__all__ = [
    "INTENSITY_PRESETS",
    "JITTER_DIRECTIONS",
    "SLICE_AXES",
    "BoxFromMask",
    "BoxFromMaskd",
    "IntensityPreset",
    "RandJitterBox",
    "RandJitterBoxd",
    "ResizeLongestSide",
    "ResizeLongestSided",
    "ScaleIntensityPreset",
    "ScaleIntensityPresetd",
    "TakeSlice",
    "TakeSliced",
    "box_from_mask",
    "check_box",
    "find_preset",
    "inscribed_ellipse",
    "intensity_range",
    "jitter_box",
    "otsu_in_box",
    "place_slice",
    "scale_intensity",
    "slices_of",
    "take_slice",
    "volume_from_slices",
]
