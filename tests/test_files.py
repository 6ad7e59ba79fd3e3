import os
import resource
import signal
import stat

import numpy as np
import pytest

from monai_cobot.data import Volume, write_mask
from monai_cobot.files import stamp_of, writable_folder, write_atomically, written_beside


def test_a_file_is_written_with_its_folders_and_readable_by_all(tmp_path):
    path = write_atomically(tmp_path / "new" / "folder" / "file.txt", b"content")
    assert path.read_bytes() == b"content"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.fixture
def full_disk():
    """No file can grow beyond 1000 bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, previous)


def test_a_full_disk_leaves_the_previous_file_and_nothing_beside_it(tmp_path, full_disk):
    path = write_atomically(tmp_path / "file.bin", b"before")
    with pytest.raises(OSError, match=r"what was there before is intact.*file\.bin"):
        write_atomically(path, bytes(100_000))
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_is_interrupted_leaves_nothing_beside_the_previous_file(tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    path = write_atomically(tmp_path / "file.bin", b"before")
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"after")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_of_a_library_leaves_the_previous_file_likewise(tmp_path, full_disk):
    path = write_atomically(tmp_path / "file.bin", b"before")
    with pytest.raises(OSError, match=r"what was there before is intact.*file\.bin"), written_beside(path) as beside:
        beside.write_bytes(bytes(100_000))
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".png"])
def test_a_mask_for_which_there_is_no_room_is_named_and_not_half_written(tmp_path, full_disk, ending):
    grid = (64, 64, 1)
    noise = np.random.default_rng(0).integers(0, 256, grid, dtype=np.uint8)
    like = Volume(noise[None], np.eye(4), tmp_path / "image", grid, np.eye(4))
    with pytest.raises(OSError, match=f"mask{ending}"):
        write_mask(noise, like, tmp_path / f"mask{ending}")
    assert list(tmp_path.iterdir()) == []


def test_the_stamp_of_files_changes_with_each_of_them_and_with_nothing_else(tmp_path):
    first, second = (write_atomically(tmp_path / name, b"1") for name in ("first", "second"))
    before = stamp_of(first, second)
    assert stamp_of(first, second) == before
    write_atomically(second, b"22")
    assert stamp_of(first, second) != before
    assert stamp_of(first) == before[:2]
    with pytest.raises(FileNotFoundError):
        stamp_of(first, tmp_path / "none")


def test_a_file_in_the_place_of_the_folder_is_named_in_the_error(tmp_path):
    (tmp_path / "runs").write_text("a file", encoding="utf-8")
    with pytest.raises(OSError, match=r"runs/report\.txt"):
        write_atomically(tmp_path / "runs" / "report.txt", b"new")


def test_a_folder_is_made_and_tried_before_a_library_writes_there(tmp_path):
    assert writable_folder(tmp_path / "new" / "logs") == tmp_path / "new" / "logs"
    assert list((tmp_path / "new" / "logs").iterdir()) == []


def test_a_full_disk_is_told_before_a_library_writes_there(tmp_path, full_disk):
    with pytest.raises(OSError, match="File too large: could not write it"):
        writable_folder(tmp_path / "logs")
    assert list((tmp_path / "logs").iterdir()) == []
