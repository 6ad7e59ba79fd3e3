"""The time over HTTP is measured on a server of its own."""

import subprocess
import sys
from pathlib import Path


def test_the_time_that_a_user_of_a_server_waits_is_printed_beside_the_time_without(monailabel, repository: Path):
    command = [sys.executable, str(repository / "benchmarks" / "interaction.py"), "--over_http"]
    command += ["--slices", "2", "--repeats", "2", "--box_repeats", "2"]
    ended = subprocess.run(command, cwd=repository, capture_output=True, encoding="utf-8", check=False)
    assert ended.returncode == 0, ended.stderr
    rows = [line.split("|")[1:-1] for line in ended.stdout.splitlines() if line.startswith("| ")][2:]
    assert [row[0].strip() for row in rows[:3]] == ["box, embedding kept", "box, new slice", "3D box of 2 new slices"]
    assert all(float(row[2]) > 0 for row in rows[:3])
    assert [row[3].strip() for row in rows] == ["20", "150", "", "", ""], "what was asked for stands beside it"
    assert "2 3D boxes" in ended.stdout
    assert not any(row[2].strip() for row in rows[3:]), "what is not asked over HTTP has no time"
