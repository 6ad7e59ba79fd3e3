import resource
import subprocess
import sys
import threading

import pytest

from monai_cobot.reports._files import write_atomically


def test_the_content_takes_the_place_of_what_was_there(tmp_path):
    path = tmp_path / "report.txt"
    path.write_bytes(b"old")
    assert write_atomically(path, b"new") == path
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_cut_short_leaves_the_old_file_and_nothing_else(tmp_path):
    assert threading.active_count() == 1, "the limit below holds for the whole process"
    path = tmp_path / "report.txt"
    path.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="cannot write the report") as raised:
            write_atomically(path, bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert raised.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_in_the_place_of_the_folder_is_named_in_the_error(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(OSError, match=r"runs/report\.txt"):
        write_atomically(tmp_path / "runs" / "report.txt", b"new")


def test_reports_leave_the_user_s_pyplot_alone():
    check = "import sys, monai_cobot.reports; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
