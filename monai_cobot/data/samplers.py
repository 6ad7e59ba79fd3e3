"""Which samples an epoch takes, in which order, and which process gets them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import numpy as np
import torch.distributed as dist
from torch.utils.data import DistributedSampler, Sampler

from monai_cobot.data.slice_dataset import SliceDataset
from monai_cobot.processes import are_joined

__all__ = ["EpochSampler", "SameShapeBatchSampler"]


class EpochSampler(DistributedSampler):
    """A new order, or a new subset, every epoch, the same for any number of processes.

    The order depends on the seed and the epoch alone and is dealt to the processes like cards: what all of them take
    in a step is what one process would take with the batches put together.

    It is a `DistributedSampler`, so that MONAI's engines call `set_epoch` themselves; the call is passed on to the
    data set, whose random numbers it chooses.

    Args:
        dataset: the data set.
        shuffle: whether the order is random.
        seed: of the order.
        samples_per_epoch: samples of an epoch in all processes together, None for all; a random subset with
            ``shuffle``, otherwise the first ones.
        rank, world_size: this process and the number of all; by default those of torch.distributed.

    Raises:
        ValueError: for a ``samples_per_epoch`` below 1, or a rank outside the world.
    """

    def __init__(
        self,
        dataset: SliceDataset,
        shuffle: bool = True,
        seed: int = 0,
        samples_per_epoch: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        if samples_per_epoch is not None and samples_per_epoch < 1:
            raise ValueError(f"samples_per_epoch is {samples_per_epoch}; it must be at least 1, or None for all.")
        rank, world_size = _place(rank, world_size)
        super().__init__(dataset, num_replicas=world_size, rank=rank, shuffle=shuffle, seed=seed)
        total = len(dataset) if samples_per_epoch is None else min(samples_per_epoch, len(dataset))
        self.samples = total
        self.num_samples = -(-total // world_size)
        self.total_size = self.num_samples * world_size

    def __iter__(self) -> Iterator[int]:
        order = np.arange(len(self.dataset))  # type: ignore[arg-type]
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(order)
        # Repeating the first ones gives every process the same number; DistributedSampler does likewise.
        padded = np.resize(order[: self.samples], self.total_size)
        return iter(padded[self.rank :: self.num_replicas].tolist())

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch of the sampler and of its data set."""
        super().set_epoch(epoch)
        self.dataset.set_epoch(epoch)  # type: ignore[attr-defined]


class SameShapeBatchSampler(Sampler[list[int]]):
    """Batches of neighbouring samples of one case, in order: for evaluation.

    The slices of a case have one shape, so that a batch needs no padding, and a case stays in one process, so that
    a score per case needs no communication. Every sample is in exactly one batch of one process; processes may have
    different numbers of batches, and none where there are fewer cases than processes.

    Args:
        dataset: the data set.
        batch_size: the most samples of a batch.
        rank, world_size: this process and the number of all; by default those of torch.distributed.

    Raises:
        ValueError: for a ``batch_size`` below 1, or a rank outside the world.
    """

    def __init__(
        self, dataset: SliceDataset, batch_size: int, rank: int | None = None, world_size: int | None = None
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1.")
        rank, world_size = _place(rank, world_size)
        # A case's samples are neighbours in the data set.
        groups = [list(group) for _, group in groupby(range(len(dataset)), key=dataset.case_of)]
        self.batches = [
            group[start : start + batch_size]
            for group in groups[rank::world_size]
            for start in range(0, len(group), batch_size)
        ]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def _place(rank: int | None, world_size: int | None) -> tuple[int, int]:
    running = are_joined()
    if world_size is None:
        world_size = dist.get_world_size() if running else 1
    if rank is None:
        rank = dist.get_rank() if running else 0
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} is outside a world of {world_size} processes.")
    return rank, world_size
