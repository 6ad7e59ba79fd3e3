import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rich", reason="needs the extra [benchmarks]")
pytest.importorskip("openvino", reason="needs the extra [benchmarks]")
pytest.importorskip("transformers", reason="needs the extra [benchmarks]")

pytestmark = pytest.mark.skipif(
    "MONAI_COBOT_SLOW_TESTS" not in os.environ, reason="takes minutes: set MONAI_COBOT_SLOW_TESTS=1 to run it"
)


def run(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", "--quick", *arguments]
    return subprocess.run(command, cwd=repository, capture_output=True, encoding="utf-8", check=False)


def rows_of(page: str) -> list[list[str]]:
    """Of all tables of a page, without their heads."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| ")]
    return [row for row in rows if row[0] not in ("task", "---")]


def test_each_row_is_a_ratio_with_its_quartiles_on_a_page_whose_other_text_stays(
    repository: Path, tmp_path: Path
) -> None:
    page = tmp_path / "performance.md"
    marks = "<!-- python -m benchmarks, cpu, float32: decoder -->\n", "<!-- until here -->\n"
    page.write_text(f"# Before\n\n{marks[0]}an older table\n{marks[1]}\nAfter.\n", encoding="utf-8")
    ran = run(repository, "--rows", "decoder", "cobot", "cached", "growth", "--to", str(tmp_path))
    assert ran.returncode == 0, ran.stderr
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# Before\n\n{marks[0]}")
    assert text.endswith(f"{marks[1]}\nAfter.\n")
    assert text.count(marks[1]) == 4
    assert "an older table" not in text
    rows = rows_of(text)
    assert {row[0].split(",")[0] for row in rows} == {
        "decoder",
        "lora training step",
        "lora forward after fold()",
        "adaptformer training step",
        "adaptformer forward after fold()",
        "decoder_only epoch of 2 images",
    }
    assert {row[1] for row in rows if row[0].startswith("decoder,")} >= {"segment_anything", "transformers"}
    assert {"vit_mini 64", "vit_mini 16"} <= {row[0].split(", ")[-1] for row in rows}
    for row in rows:
        low, high = (float(number) for number in row[6].split(" to "))
        assert 0 < low <= float(row[5].strip("*")) <= high
    assert (tmp_path / "pictures" / "performance_growth_cpu_float32.png").stat().st_size > 10_000


def test_the_encoder_stands_against_stock_transformers_openvino_and_the_floor(repository: Path) -> None:
    ran = run(repository, "--rows", "encoder")
    assert ran.returncode == 0, ran.stderr
    rows = rows_of(ran.stdout)
    assert {"segment_anything", "transformers, sdpa", "OpenVINO on segment_anything"} <= {row[1] for row in rows}
    assert rows[-1][2] == "the machine's floor"


def test_peak_memory_is_measured_in_processes_of_their_own(repository: Path) -> None:
    ran = run(repository, "--rows", "memory")
    assert ran.returncode == 0, ran.stderr
    assert [row[2] for row in rows_of(ran.stdout)] == ["ours", "ours, gradient checkpointing"]
    assert all(row[3].endswith(" GB") for row in rows_of(ran.stdout))
