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


def test_what_is_found_wrongly_in_one_column_alone_counts_there_and_is_left_out_of_the_other(tmp_path):
    found = CaseScores({("a", "liver"): 0.5, ("b", "liver"): 0.0, ("a", "spleen"): 0.0})
    right = CaseScores({("a", "liver"): 0.9, ("c", "liver"): 0.0, ("d", "liver"): 0.0})
    columns = {"zero-shot": found, "fine-tuned": right}
    assert dice_table(columns).splitlines()[2:] == [
        "liver    2, 3  0.250 ± 0.354   0.300 ± 0.520  +0.050",
        "spleen   1, 0          0.000               -       -",
        "----------------------------------------------------",
        "mean                   0.125           0.300  +0.175",
    ]
    with write_csv(tmp_path / "dice.csv", columns).open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file))[1:] == [
            ["a", "liver", "0.500", "0.900"],
            ["b", "liver", "0.000", ""],
            ["a", "spleen", "0.000", ""],
            ["c", "liver", "", "0.000"],
            ["d", "liver", "", "0.000"],
        ]


def test_a_table_without_scores_says_so():
    with pytest.raises(ValueError, match="no case has been scored"):
        dice_table({"": CaseScores()})
    with pytest.raises(ValueError, match="at least one column"):
        write_csv("unwritten.csv", {})
