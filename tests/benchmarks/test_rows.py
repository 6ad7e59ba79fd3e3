"""What is asked of the benchmarks' rows, and where their table goes; nothing is measured here."""

import sys
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

BEGIN = "<!-- python -m benchmarks, {}: {} -->\n"


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


def test_the_part_of_these_rows_on_a_device_in_a_precision_is_replaced_and_all_else_stays(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    ours = BEGIN.format("cpu, float32", "encoder")
    others = [BEGIN.format("cpu, float32", "decoder"), BEGIN.format("cpu, bfloat16", "encoder")]
    kept = f"\nBetween.\n{others[0]}kept\n{command.END}{others[1]}kept\n{command.END}After.\n"
    page.write_text(f"# Before\n{ours}old\n{command.END}{kept}", encoding="utf-8")
    command.write_into(page, setting(), "encoder", "new\n")
    assert page.read_text(encoding="utf-8") == f"# Before\n{ours}new\n{command.END}{kept}"


def test_another_part_comes_after_the_others_and_a_new_page_is_made(tmp_path: Path) -> None:
    page = tmp_path / "docs" / "performance.md"
    command.write_into(page, setting(), "encoder", "one\n")
    with page.open("a", encoding="utf-8") as file:
        file.write("After.\n")
    command.write_into(page, setting(device="cuda", precision="bfloat16"), "encoder", "two\n")
    command.write_into(page, setting(), "decoder", "three\n")
    text = page.read_text(encoding="utf-8")
    parts = [BEGIN.format("cpu, float32", "encoder"), "one", command.END]
    parts += [BEGIN.format("cuda, bfloat16", "encoder"), "two", BEGIN.format("cpu, float32", "decoder"), "three"]
    places = [text.index(part) for part in [*parts, "After."]]
    assert places == sorted(places)


def test_a_part_without_an_end_is_an_error_and_the_page_stays(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(f"{BEGIN.format('cpu, float32', 'encoder')}no end\n", encoding="utf-8")
    with pytest.raises(ValueError, match="is missing behind"):
        command.write_into(page, setting(), "encoder", "new\n")
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repeats", "3"], "at least 5 rounds, got --repeats 3"),
        (["--device", "cuda", "--clock", "processor"], "use --clock wall"),
    ],
)
def test_what_would_measure_nothing_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--quick", *arguments])
    with pytest.raises(SystemExit) as ended:
        command.parse()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
