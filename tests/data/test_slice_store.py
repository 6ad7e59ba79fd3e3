import errno
import os
import pickle
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest

from monai_cobot.data.slice_store import SlicesOnDisk, SliceStore


def arrays(count: int = 20) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(-999, 999, (5, 2, 6, 7)).astype(dtype) for dtype in (np.int16, np.uint8) * (count // 2)]


def test_what_exceeds_the_memory_lies_in_one_file_that_has_no_name(tmp_path: Path) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    store = SliceStore(2000e-9, tmp_path)  # 840 and 420 bytes an array
    kept = [store.keep(array) for array in arrays()]
    assert [isinstance(slices, np.ndarray) for slices in kept[:3]] == [True, True, False]
    assert sum(slices.nbytes for slices in kept if isinstance(slices, np.ndarray)) <= 2000
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == descriptors + 1
    for array, slices in zip(arrays(), kept, strict=True):
        assert (slices.shape, slices.dtype) == (array.shape, array.dtype)
        for position in (4, 0, 2):
            assert np.array_equal(slices[position], array[position])
    del store, kept, slices
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_process_that_is_spawned_gets_the_open_file(tmp_path: Path) -> None:
    kept = SliceStore(0, tmp_path).keep(arrays()[0])
    content = ForkingPickler.dumps(kept)  # what a loader sends to its workers
    assert len(content) < 840
    handed_over = pickle.loads(content)
    del kept
    assert isinstance(handed_over, SlicesOnDisk)
    assert np.array_equal(handed_over[3], arrays()[0][3])


def test_a_full_disk_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="choose another slice_cache_dir") as raised:
        SliceStore(0, tmp_path).keep(arrays()[0])
    assert raised.value.filename == str(tmp_path)
