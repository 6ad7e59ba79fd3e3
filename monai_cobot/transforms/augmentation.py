"""Which transforms change images at random."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from monai.transforms import Compose, MapTransform, Randomizable

__all__ = ["image_augmentations"]


def image_augmentations(transform: Callable[..., Any] | None, image_key: str = "image") -> list[str]:
    """The names of random transforms that change images; those that work on other entries alone are none."""
    return [
        type(item).__name__
        for item in _flat([] if transform is None else [transform])
        if isinstance(item, Randomizable) and not (isinstance(item, MapTransform) and image_key not in item.keys)
    ]


def _flat(transforms: Iterable[Callable[..., Any]]) -> Iterable[Callable[..., Any]]:
    for item in transforms:
        if isinstance(item, Compose):
            yield from _flat(item.transforms)
        else:
            yield item
