import csv

import pytest

from monai_cobot.reports import CaseScores, dice_table, write_csv

BEFORE = CaseScores({("a", "liver"): 0.1, ("b", "liver"): 0.3, ("a", "right kidney"): 0.5})
AFTER = CaseScores({("a", "liver"): 0.9, ("b", "liver"): 0.8, ("a", "right kidney"): 0.25})


def test_the_table_shows_each_label_in_every_column_with_the_last_gain_and_the_mean():
    ellipse = CaseScores({("a", "liver"): 0.4, ("b", "liver"): 0.4, ("a", "right kidney"): 0.6})
    assert dice_table({"ellipse": ellipse, "zero-shot": BEFORE, "fine-tuned": AFTER}).splitlines() == [
        "label         cases    DSC ellipse  DSC zero-shot  DSC fine-tuned    gain",
        "-------------------------------------------------------------------------",
        "liver             2  0.400 ± 0.000  0.200 ± 0.141   0.850 ± 0.071  +0.650",
        "right kidney      1          0.600          0.500           0.250  -0.250",
        "-------------------------------------------------------------------------",
        "mean                         0.500          0.350           0.550  +0.200",
    ]


def test_the_markdown_table_holds_the_same_figures():
    assert dice_table({"zero-shot": BEFORE, "fine-tuned": AFTER}, markdown=True).splitlines() == [
        "| label        | cases | DSC zero-shot | DSC fine-tuned |       gain |",
        "| ------------ | ----: | ------------: | -------------: | ---------: |",
        "| liver        |     2 | 0.200 ± 0.141 |  0.850 ± 0.071 |     +0.650 |",
        "| right kidney |     1 |         0.500 |          0.250 |     -0.250 |",
        "| **mean**     |       |     **0.350** |      **0.550** | **+0.200** |",
    ]


def test_a_label_with_a_bar_in_its_name_does_not_break_the_markdown_table():
    table = dice_table({"": CaseScores({("a", "left|right"): 0.5})}, markdown=True)
    assert r"left\|right" in table


def test_a_single_column_needs_no_name_and_has_no_gain():
    assert dice_table({"": AFTER}).splitlines() == [
        "label         cases            DSC",
        "----------------------------------",
        "liver             2  0.850 ± 0.071",
        "right kidney      1          0.250",
        "----------------------------------",
        "mean                         0.550",
    ]


def test_the_csv_file_has_a_line_for_each_case_and_label(tmp_path):
    path = write_csv(tmp_path / "new" / "dice.csv", {"before": BEFORE, "after": AFTER})
    with path.open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [
            ["case", "label", "dice_before", "dice_after"],
            ["a", "liver", "0.100", "0.900"],
            ["b", "liver", "0.300", "0.800"],
            ["a", "right kidney", "0.500", "0.250"],
        ]


def test_a_case_named_with_a_comma_survives_the_csv_file(tmp_path):
    path = write_csv(tmp_path / "dice.csv", {"after": CaseScores({("benign (1), left", "tumour"): 0.5})})
    with path.open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file))[1] == ["benign (1), left", "tumour", "0.500"]


def test_scores_of_different_cases_are_not_compared(tmp_path):
    other = CaseScores({("a", "liver"): 0.9})
    with pytest.raises(ValueError, match="2 stand in one of them only, the first: case 'a', label 'right kidney'"):
        dice_table({"before": BEFORE, "after": other})
    with pytest.raises(ValueError, match="must hold the same cases and labels"):
        write_csv(tmp_path / "dice.csv", {"before": BEFORE, "after": other})
    assert not list(tmp_path.iterdir())


def test_a_table_without_scores_says_so():
    with pytest.raises(ValueError, match="no case has been scored"):
        dice_table({"": CaseScores()})
    with pytest.raises(ValueError, match="at least one column"):
        write_csv("unwritten.csv", {})
