"""What is asked of the benchmarks' rows, and where their table goes; nothing is measured here."""

from pathlib import Path

import pytest
import torch
from rich.progress import Progress

pytest.importorskip("openvino", reason="needs the extra [benchmarks]")
pytest.importorskip("transformers", reason="needs the extra [benchmarks]")
pytest.importorskip("peft", reason="needs the extra [benchmarks]")

from benchmarks import __main__ as command
from benchmarks.goals import goal
from benchmarks.timing import Row, Setting

BEGIN = "<!-- what python -m benchmarks printed: {} -->\n"


def setting(variant: str = "vit_b", size: int = 1024, device: str = "cpu", precision: str = "float32") -> Setting:
    return Setting(variant, size, torch.device(device), precision, 5, "wall", Progress())


def row(*ratios: float, at_least: float | None = None, at_most: float | None = None) -> Row:
    return Row("task", "one", "other", tuple((ratio, 1.0) for ratio in ratios), at_least=at_least, at_most=at_most)


@pytest.mark.parametrize(
    ("ratios", "asked", "holds"),
    [
        ((1.0, 2.0, 30.0), {"at_least": 2.0}, True),
        ((1.0, 1.9, 30.0), {"at_least": 2.0}, False),
        ((1.0, 1.2, 1.3), {"at_most": 1.2}, True),
        ((1.0, 1.21, 1.3), {"at_most": 1.2}, False),
        ((1.996,), {"at_least": 2.0}, True),
        ((1.994,), {"at_least": 2.0}, False),
        ((1.5,), {"at_least": 1.0, "at_most": 2.0}, True),
        ((2.5,), {"at_least": 1.0, "at_most": 2.0}, False),
        ((0.1,), {}, True),
    ],
)
def test_a_row_holds_where_its_median_as_it_is_shown_is_what_is_asked(
    ratios: tuple[float, ...], asked: dict[str, float], holds: bool
) -> None:
    assert row(*ratios, **asked).holds is holds


def test_something_is_asked_of_vit_b_at_1024_pixels_on_a_cpu_alone_and_more_in_bfloat16() -> None:
    for name in ("best forward", "eager forward", "training step"):
        plain, fast = goal(setting(), name), goal(setting(precision="bfloat16"), name)
        assert plain is not None
        assert fast is not None
        assert 1 < plain < fast
        for other in (setting(variant="vit_l"), setting(size=256), setting(device="cuda")):
            assert goal(other, name) is None


def test_the_part_of_a_device_and_precision_is_replaced_and_all_else_stays(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    first, second = BEGIN.format("cpu, float32"), BEGIN.format("cpu, bfloat16")
    page.write_text(
        f"# Before\n{first}old\n{command.END}\nBetween.\n{second}kept\n{command.END}After.\n", encoding="utf-8"
    )
    command.write_into(page, setting(), "new\n")
    assert page.read_text(encoding="utf-8") == (
        f"# Before\n{first}new\n{command.END}\nBetween.\n{second}kept\n{command.END}After.\n"
    )


def test_another_part_comes_after_the_others_and_a_new_page_is_made(tmp_path: Path) -> None:
    page = tmp_path / "docs" / "performance.md"
    picture = page.parent / "pictures" / "performance_growth_cuda_bfloat16.png"
    command.write_into(page, setting(), "one\n")
    picture.parent.mkdir()
    picture.write_bytes(b"picture")
    with page.open("a", encoding="utf-8") as file:
        file.write("After.\n")
    command.write_into(page, setting(device="cuda", precision="bfloat16"), "two\n")
    text = page.read_text(encoding="utf-8")
    parts = [BEGIN.format("cpu, float32"), "one", command.END, BEGIN.format("cuda, bfloat16"), "two"]
    places = [text.index(part) for part in [*parts, f"(pictures/{picture.name})", "After."]]
    assert places == sorted(places)


def test_a_part_without_an_end_is_an_error_and_the_page_stays(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(f"{BEGIN.format('cpu, float32')}no end\n", encoding="utf-8")
    with pytest.raises(ValueError, match="is missing behind"):
        command.write_into(page, setting(), "new\n")
    assert "no end" in page.read_text(encoding="utf-8")


def test_check_ends_with_1_and_names_the_rows_that_are_not_as_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["python -m benchmarks", "--quick", "--rows", "cobot"]
    monkeypatch.setitem(command.ROWS, "cobot", lambda _: [row(1.5, at_least=1.0), row(1.25, at_least=2.0)])
    monkeypatch.setattr("sys.argv", arguments)
    command.main()
    monkeypatch.setattr("sys.argv", [*arguments, "--check"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert isinstance(ended.value.code, str)  # which Python prints, and ends with 1
    assert "**1.25**" in ended.value.code
    assert "**1.5**" not in ended.value.code
    assert "**1.5**" in capsys.readouterr().out
    monkeypatch.setitem(command.ROWS, "cobot", lambda _: [row(1.5, at_least=1.0)])
    command.main()
