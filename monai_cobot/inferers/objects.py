"""An object that is being segmented: its mask, kept no larger than it is, and the prompts it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np

from monai_cobot.inferers.grid import SLICE_NORMALS, Region
from monai_cobot.inferers.prompts import SlicePrompts

__all__ = ["MaskCrop", "SegmentedObject"]

_NONE: Mapping[tuple[str, int], SlicePrompts] = MappingProxyType({})


@dataclass(frozen=True, eq=False)
class MaskCrop:
    """A mask in the part of a volume where it has voxels. It is never changed; a change gives a new one.

    Attributes:
        region: which part.
        array: (I, J, K) bool of the region's shape.
    """

    region: Region
    array: np.ndarray

    def __post_init__(self) -> None:
        self.array.setflags(write=False)

    def read(self, region: Region) -> np.ndarray:
        """The mask in another region: a new array (I, J, K) bool."""
        result = np.zeros(region.shape, dtype=bool)
        result[self.region.within(region)] = self.array[region.within(self.region)]
        return result

    @staticmethod
    def of(region: Region, array: np.ndarray) -> MaskCrop | None:
        """The smallest crop that holds the foreground of an array that fills a region; None where there is none."""
        tight = Region.around(array)
        if tight is None:
            return None
        low = tuple(np.add(region.low, tight.low).tolist())
        high = tuple(np.add(region.low, tight.high).tolist())
        return MaskCrop(Region(low, high), array[tight.slices].copy())


@dataclass(frozen=True, eq=False)
class SegmentedObject:
    """An object of a session. It is never changed; a change gives a new one.

    Attributes:
        label: its value in label maps, from 1.
        mask: None while it is empty.
        prompts: (slice axis, slice index) -> what its mask there came from.
    """

    label: int
    mask: MaskCrop | None = None
    prompts: Mapping[tuple[str, int], SlicePrompts] = field(default_factory=lambda: _NONE)

    def with_mask(self, region: Region, array: np.ndarray) -> SegmentedObject:
        """With another mask inside a region; outside, it stays."""
        new = MaskCrop.of(region, array)
        if self.mask is None:
            return replace(self, mask=new)
        # no larger than both masks: a whole slice of a tall object would take all of the slices between
        whole = self.mask.region if new is None else self.mask.region.union(new.region)
        merged = self.mask.read(whole)
        merged[region.within(whole)] = False
        if new is not None:
            merged[new.region.within(whole)] = new.array
        return replace(self, mask=MaskCrop.of(whole, merged))

    def without_propagated(self, axis: str, limits: range) -> SegmentedObject:
        """Without the mask in slices of an axis that an earlier propagation gave."""
        gone = [
            index
            for (of, index), prompts in self.prompts.items()
            if of == axis and index in limits and prompts.origin == "propagated"
        ]
        if self.mask is None or not gone:
            return self
        array = self.mask.array.copy()
        first = self.mask.region.indices(axis)
        np.moveaxis(array, SLICE_NORMALS[axis], 0)[[index - first.start for index in gone if index in first]] = False
        kept = {key: prompts for key, prompts in self.prompts.items() if key not in {(axis, index) for index in gone}}
        return replace(self, mask=MaskCrop.of(self.mask.region, array), prompts=MappingProxyType(kept))

    def with_prompts(self, prompts: Mapping[tuple[str, int], SlicePrompts]) -> SegmentedObject:
        """With the prompts of some slices put in the place of what was there."""
        return replace(self, prompts=MappingProxyType({**self.prompts, **prompts}))

    @property
    def nbytes(self) -> int:
        """Memory of the mask."""
        return 0 if self.mask is None else self.mask.array.nbytes
