"""Which transforms may change images at random."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from monai.transforms import Compose, Lambda, Lambdad, MapTransform, RandomizableTrait, Transform

__all__ = ["image_augmentations"]


def image_augmentations(transform: Callable[..., Any] | None, image_key: str = "image") -> list[str]:
    """The names of transforms that may give another image the next time; those that work on other entries alone do not.

    They are MONAI's random ones, and functions (plain, ``Lambda`` or ``Lambdad``), which do not say what they do. A
    transform of one's own that is random must be a ``Randomizable``, as MONAI asks, or have its ``RandomizableTrait``,
    as those have whose random numbers another library draws.
    """
    return [_name(item) for item in _flat([] if transform is None else [transform]) if _may_change(item, image_key)]


def _may_change(item: Callable[..., Any], image_key: str) -> bool:
    if isinstance(item, MapTransform) and image_key not in item.keys:
        return False
    return isinstance(item, (RandomizableTrait, Lambda, Lambdad)) or not isinstance(item, Transform)


def _name(item: Callable[..., Any]) -> str:
    return getattr(item, "__name__", type(item).__name__)


def _flat(transforms: Iterable[Callable[..., Any]]) -> Iterable[Callable[..., Any]]:
    for item in transforms:
        if type(item) is Compose:  # those derived from it choose among their transforms or order them at random
            yield from _flat(item.transforms)
        else:
            yield item
