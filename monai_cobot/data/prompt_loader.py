"""Images with prompts, read one after the other and dealt out in batches of slices with boxes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from monai_cobot.data.prompts import Prompt, PromptSource
from monai_cobot.data.slice_dataset import Skip
from monai_cobot.data.volumes import Volume
from monai_cobot.transforms.intensity import INTENSITY_PRESETS, find_preset, intensity_range, scale_intensity
from monai_cobot.transforms.slices import take_slice

__all__ = ["PromptDataset", "PromptLoader", "PromptedImage"]


@dataclass(frozen=True)
class PromptedImage:
    """An image in memory with its prompts.

    Attributes:
        name: of the image.
        volume: the image.
        prompts: in the order in which they take effect.
        low, high: the intensities that become 0 and 1.
    """

    name: str
    volume: Volume
    prompts: tuple[Prompt, ...]
    low: float
    high: float


class PromptDataset(Dataset):
    """Images with their prompts; an item is a whole image, or a `Skip` with the reason why it cannot be used.

    Nothing is kept in memory: each image is read when it is asked for.

    Args:
        images: where images and prompts come from.
        preset: intensity preset, see `monai_cobot.transforms.find_preset`.

    Raises:
        ValueError: for an unknown preset, or none.
    """

    def __init__(self, images: Sequence[PromptSource], preset: str | None) -> None:
        if preset is None:
            known = ", ".join(INTENSITY_PRESETS)
            raise ValueError(f'no intensity preset is known for the images; choose one of {known}, or "window:0,255".')
        self.images = list(images)
        self.preset = find_preset(preset)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> PromptedImage | Skip:
        source = self.images[index]
        try:
            volume, prompts = source.load()
            low, high = intensity_range(volume.array, self.preset)
        except (OSError, ValueError) as error:
            return Skip(source.name, str(error))
        return PromptedImage(source.name, volume, prompts, low, high)


class PromptLoader:
    """Batches of slices with boxes, image by image; a batch never holds slices of two images.

    A batch is a dictionary for MONAI's evaluators:

    * ``image``: (B, C, H, W) float32 in [0, 1], B different slices;
    * ``box``: (B, N, 4) float32, xyxy, half-open, in pixels of the slice; a slice with fewer boxes repeats its last;
    * ``prompts``: for each slice the prompts of its boxes, without the repeated ones;
    * ``source``: the `PromptedImage`; ``last``: whether no batch of this image follows.

    Boxes of one slice share its image, which is then encoded once.

    Args:
        dataset: the images.
        batch_size: the most boxes of a batch, B x N.
        num_workers: processes that read images ahead; 0 to read in this one.
        rank, world_size: this process works on every ``world_size``-th image, from the ``rank``-th on.
        progress: whether a progress bar is shown.

    Attributes:
        skipped: the images of the last pass that could not be used, and why.

    Raises:
        ValueError: for a ``batch_size`` below 1, or a rank outside the world.
    """

    def __init__(
        self,
        dataset: PromptDataset,
        batch_size: int,
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        progress: bool = True,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1.")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is outside a world of {world_size} processes.")
        self.dataset = dataset
        self.batch_size = batch_size
        self.world_size = world_size
        self.progress = progress
        self.skipped: list[Skip] = []
        share = Subset(dataset, range(rank, len(dataset), world_size))
        self._images = DataLoader(share, batch_size=None, num_workers=num_workers)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self.skipped = []
        for item in tqdm(self._images, desc="images", unit="image", disable=None if self.progress else True):
            if isinstance(item, Skip):
                self.skipped.append(item)
            else:
                yield from self._batches(item)

    def _batches(self, image: PromptedImage) -> Iterator[dict[str, Any]]:
        packed = list(_packed(_by_slice(image.prompts, self.batch_size), self.batch_size))
        for number, slices in enumerate(packed, start=1):
            yield {**_batch(image, slices), "source": image, "last": number == len(packed)}


def _by_slice(prompts: Iterable[Prompt], most: int) -> Iterator[list[list[Prompt]]]:
    """Runs of prompts along one axis, in each the prompts of every slice, at most so many together.

    Slices of one axis share no voxel, so that gathering the prompts of a slice does not change which come first.
    """
    for _, run in groupby(prompts, key=lambda prompt: prompt.axis):
        slices: dict[int, list[Prompt]] = {}
        for prompt in run:
            slices.setdefault(prompt.slice, []).append(prompt)
        yield [of[start : start + most] for of in slices.values() for start in range(0, len(of), most)]


def _packed(runs: Iterable[list[list[Prompt]]], most: int) -> Iterator[list[list[Prompt]]]:
    """Neighbouring slices of a run, as many as make at most so many boxes once all have as many as the fullest."""
    for run in runs:
        batch: list[list[Prompt]] = []
        for prompts in run:
            fullest = max(map(len, [*batch, prompts]))
            if batch and fullest * (len(batch) + 1) > most:
                yield batch
                batch = []
            batch.append(prompts)
        yield batch


def _batch(image: PromptedImage, slices: list[list[Prompt]]) -> dict[str, Any]:
    pixels = [
        scale_intensity(take_slice(image.volume.array, of[0].axis, of[0].slice), image.low, image.high) for of in slices
    ]
    height, width = pixels[0].shape[-2:]
    fullest = max(map(len, slices))
    boxes = [[of[min(n, len(of) - 1)].box or (0, 0, width, height) for n in range(fullest)] for of in slices]
    return {
        "image": torch.stack(pixels),  # (B, C, H, W)
        "box": torch.tensor(boxes, dtype=torch.float32),  # (B, N, 4)
        "prompts": slices,
    }
