from itertools import chain
from pathlib import Path

import pytest
from torch.utils.data import DistributedSampler

from monai_cobot.data import EpochSampler, SameShapeBatchSampler, SliceDataset, open_dataset
from tests.data.conftest import Write, case_arrays


@pytest.fixture
def samples(write_msd: Write) -> SliceDataset:
    shapes = [(40, 30, 6), (42, 30, 6), (40, 33, 6), (44, 31, 6), (40, 30, 6)]
    root: Path = write_msd({f"case{n}": case_arrays(shape, n) for n, shape in enumerate(shapes)})
    split = open_dataset("msd", root)
    cases = sorted(split.training + split.validation, key=lambda case: case.name)
    return SliceDataset(cases, {"block": 1}, "ct_abdomen", progress=False)


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize("samples_per_epoch", [None, 12])
def test_processes_share_the_batches_of_one_process(
    samples: SliceDataset, world_size: int, samples_per_epoch: int | None
) -> None:
    for epoch in (0, 1):
        alone = EpochSampler(samples, samples_per_epoch=samples_per_epoch, rank=0, world_size=1)
        shares = [
            EpochSampler(samples, samples_per_epoch=samples_per_epoch, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        for sampler in (alone, *shares):
            sampler.set_epoch(epoch)
        expected = list(alone)
        orders = [list(share) for share in shares]
        assert {len(order) for order in orders} == {len(shares[0])}
        for step in range(len(expected) // world_size // 2):
            together = {index for order in orders for index in order[2 * step : 2 * step + 2]}
            assert together == set(expected[2 * world_size * step : 2 * world_size * (step + 1)])
        assert {index for order in orders for index in order} == set(expected)


def test_every_epoch_has_its_own_order_and_the_same_seed_the_same(samples: SliceDataset) -> None:
    sampler = EpochSampler(samples, seed=3)
    orders = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert sorted(orders[0]) == list(range(len(samples))) == list(EpochSampler(samples, shuffle=False))
    assert orders[0] == orders[2] != orders[1]
    assert orders[0] != list(EpochSampler(samples, seed=4))


def test_subsets_of_an_epoch_differ_from_epoch_to_epoch(samples: SliceDataset) -> None:
    sampler = EpochSampler(samples, samples_per_epoch=7)
    seen = set()
    for epoch in range(20):
        sampler.set_epoch(epoch)
        drawn = list(sampler)
        assert len(drawn) == len(set(drawn)) == len(sampler) == 7
        seen |= set(drawn)
    assert seen == set(range(len(samples)))
    assert len(EpochSampler(samples, samples_per_epoch=10_000)) == len(samples)


def test_engines_that_know_distributed_samplers_set_the_epoch_of_the_data_set_too(samples: SliceDataset) -> None:
    sampler = EpochSampler(samples)
    assert isinstance(sampler, DistributedSampler)
    sampler.set_epoch(5)
    assert int(samples._epoch) == 5


@pytest.mark.parametrize("world_size", [1, 2, 7])
def test_evaluation_batches_hold_one_case_and_every_sample_once(samples: SliceDataset, world_size: int) -> None:
    batches_by_rank = [list(SameShapeBatchSampler(samples, 3, rank, world_size)) for rank in range(world_size)]
    for batch in chain.from_iterable(batches_by_rank):
        assert len({samples.case_of(index) for index in batch}) == 1
        assert len({samples[index]["image"].shape for index in batch}) == 1
        assert 1 <= len(batch) <= 3
        assert batch == sorted(batch)
    everything = [index for batches in batches_by_rank for batch in batches for index in batch]
    assert sorted(everything) == list(range(len(samples)))
    cases = [{samples.case_of(index) for batch in batches for index in batch} for batches in batches_by_rank]
    assert sum(map(len, cases)) == 5


def test_numbers_that_make_no_sense_are_refused(samples: SliceDataset) -> None:
    with pytest.raises(ValueError, match="samples_per_epoch"):
        EpochSampler(samples, samples_per_epoch=0)
    with pytest.raises(ValueError, match="rank 2"):
        EpochSampler(samples, rank=2, world_size=2)
    with pytest.raises(ValueError, match="batch_size"):
        SameShapeBatchSampler(samples, 0)
