import csv

from PIL import Image

from monai_cobot.study import Run, write_report
from monai_cobot.study.records import Record, write_record
from monai_cobot.study.tables import main_table, paired_tests, width_courses
from tests.study.conftest import LORA, LORA_COBOT


def reach(plan, method: str, seed: int, dice: list[float], **more) -> None:
    """Says what a run reached in the two test cases."""
    run = Run("phantom", method, seed)
    cases = ("phantom_006", "phantom_007")
    scores = [(case, "liver", value) for case, value in zip(cases, dice, strict=True)]
    write_record(plan.folder_of(run), Record(plan.settings(run), scores, epochs=2, seconds=3.0, **more))


def test_the_table_has_mean_and_deviation_over_seeds_and_says_what_is_missing(content, plan_of):
    plan = plan_of(content | {"seeds": [0, 1]})
    reach(plan, "LoRA", 0, [0.6, 0.8], encoder_parameters=24576)
    reach(plan, "LoRA", 1, [0.7, 0.9], encoder_parameters=24576)
    reach(plan, "LoRA + COBOT", 1, [0.9, 0.9])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in main_table(plan).splitlines()]
    assert rows[0] == ["method", "parameters", "phantom", "average"]
    assert rows[2] == ["LoRA", "24,576", "75.0 ± 7.1", "75.0"]
    assert rows[3] == ["LoRA + COBOT", "0", "90.0 (1 of 2)", "90.0"]
    assert paired_tests(plan) == {}


def test_a_method_with_cobot_is_tested_against_its_base_by_patient(content, plan_of):
    plan = plan_of(content)
    reach(plan, "LoRA", 0, [0.6, 0.8])
    reach(plan, "LoRA + COBOT", 0, [0.7, 0.7])
    test = paired_tests(plan)["phantom", "LoRA + COBOT"]
    assert (test.patients, test.better, test.worse) == (2, 1, 1)
    assert abs(test.gain) < 1e-12


def test_the_report_names_runs_that_are_not_done_and_draws_the_widths(content, plan_of):
    plan = plan_of(content | {"widths": {"of": ["LoRA"], "values": [4, 8]}, "ablation": {"of": "LoRA + COBOT"}})
    reach(plan, "LoRA", 0, [0.6, 0.8], peak_memory=700_000_000, adapter_size=3_000_000)
    reach(plan, "LoRA, width 8", 0, [0.7, 0.9])
    assert width_courses(plan) == {"phantom": {"LoRA": {4: [0.7], 8: [0.8]}}}
    files = write_report(plan, {Run("phantom", "LoRA + COBOT", 0): "out of memory"})
    assert [path.name for path in files] == ["results.md", "results.csv", "scores.csv", "widths.png"]
    text = files[0].read_text(encoding="utf-8")
    assert "2 of 9 runs are done." in text
    assert "- phantom · LoRA + COBOT · seed 0: out of memory" in text
    assert "| fixed, random |" in text
    assert "| LoRA         |        1.5 |             700 |        3.00 |" in text
    assert Image.open(files[3]).size[0] > 900
    with files[2].open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["patient"], row["dice"]) for row in rows[:2]] == [
        ("LoRA", "phantom_006", "0.600000"),
        ("LoRA", "phantom_007", "0.800000"),
    ]


def test_methods_have_their_own_columns_of_options(content, plan_of):
    assert plan_of(content).methods == {"LoRA": LORA, "LoRA + COBOT": LORA_COBOT}
