import resource
import signal
import stat

import pytest

from monai_cobot.files import write_atomically


def test_a_file_is_written_with_its_folders_and_readable_by_all(tmp_path):
    path = write_atomically(tmp_path / "new" / "folder" / "file.txt", b"content")
    assert path.read_bytes() == b"content"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_full_disk_leaves_the_previous_file_and_nothing_beside_it(tmp_path):
    path = write_atomically(tmp_path / "file.bin", b"before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"what was there before is intact.*file\.bin"):
            write_atomically(path, bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_in_the_place_of_the_folder_is_named_in_the_error(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(OSError, match=r"runs/report\.txt"):
        write_atomically(tmp_path / "runs" / "report.txt", b"new")
