import csv
from statistics import fmean

import pytest
from PIL import Image

from monai_cobot import __version__
from monai_cobot.networks import build_sam
from monai_cobot.peft import adapt, save_adapter
from monai_cobot.peft.io import read_adapter_config
from monai_cobot.study import Run, tables, write_report
from monai_cobot.study.records import Record, write_record
from monai_cobot.study.report import slot_names
from monai_cobot.study.tables import (
    Comparison,
    ablation_tables,
    main_table,
    paired_tests,
    rate_table,
    width_courses,
)
from tests.study.conftest import LORA, LORA_COBOT

CASES = ("phantom_006", "phantom_007")


def reach(plan, method: str, seed: int, dice: list[float], dataset: str = "phantom", **more) -> None:
    """Says what a run reached in the two test cases."""
    run = Run(dataset, method, seed)
    scores = [(case, "liver", value) for case, value in zip(CASES, dice, strict=True)]
    write_record(plan.folder_of(run), Record(plan.settings(run), scores, epochs=2, seconds=3.0, **more))


def rows_of(path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def cells_of(table: str) -> list[list[str]]:
    """The rows of a Markdown table below its header."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()][2:]


def test_the_table_has_mean_and_deviation_over_seeds_and_says_what_is_missing(content, plan_of):
    plan = plan_of(content | {"seeds": [0, 1]})
    reach(plan, "LoRA", 0, [0.6, 0.8], encoder_parameters=24576)
    reach(plan, "LoRA", 1, [0.7, 0.9], encoder_parameters=24576)
    reach(plan, "LoRA + COBOT", 1, [0.9, 0.9])
    assert main_table(plan).splitlines()[0].replace(" ", "") == "|method|parameters|phantom|average|"
    assert cells_of(main_table(plan)) == [
        ["LoRA", "24,576", "75.0 ± 7.1", "75.0"],
        ["LoRA + COBOT", "0", "90.0 (1 of 2)", "-"],
    ]
    assert paired_tests(plan) == {}


def test_a_method_with_cobot_is_tested_against_its_base_by_patient(content, plan_of):
    plan = plan_of(content)
    reach(plan, "LoRA", 0, [0.6, 0.8])
    reach(plan, "LoRA + COBOT", 0, [0.7, 0.7])
    test = paired_tests(plan)["COBOT against its base"][Comparison("phantom", "LoRA", "LoRA + COBOT")]
    assert (test.patients, test.better, test.worse) == (2, 1, 1)
    assert abs(test.gain) < 1e-12


def test_methods_are_compared_as_asked_on_the_data_sets_that_both_are_run_on(content, plan_of):
    content["datasets"]["again"] = content["datasets"]["phantom"]
    content["methods"]["wide"] = LORA | {"rank": 8, "datasets": ["again"]}
    content["methods"]["SAM"] = {"method": "freeze"}
    pairs = [["LoRA + COBOT", "wide"], ["LoRA", "LoRA + COBOT"], ["SAM", "LoRA"]]
    plan = plan_of(content | {"seeds": [0, 1], "compare": pairs})
    for dataset in plan.study.datasets:
        for number, method in enumerate(plan.methods):
            for seed in plan.study.seeds:
                if Run(dataset, method, seed) in plan.runs:
                    reach(plan, method, seed, [0.5 + 0.1 * number + 0.01 * seed * number, 0.7], dataset)
    tests = paired_tests(plan)["Comparisons that were asked for"]
    assert list(tests) == [  # but what COBOT's own table has
        Comparison("again", "LoRA + COBOT", "wide"),
        Comparison("phantom", "SAM", "LoRA"),
        Comparison("again", "SAM", "LoRA"),
    ]
    assert len(tests[Comparison("phantom", "SAM", "LoRA")].seed_gains) == 2  # the same SAM with every seed
    test = tests[Comparison("again", "LoRA + COBOT", "wide")]
    assert test.seed_gains == pytest.approx((0.05, 0.055))
    table = tables.test_tables(plan)["Comparisons that were asked for"]
    assert cells_of(table)[0][:7] == ["wide", "LoRA + COBOT", "again", "2", "+5.25", "+0.00 to +10.50", "+5.00 / +5.50"]


def test_the_ellipse_in_the_box_stands_above_the_methods(content, plan_of):
    content["datasets"]["again"] = content["datasets"]["phantom"]
    plan = plan_of(content)
    reach(plan, "LoRA", 0, [0.6, 0.8], ellipse=[(CASES[0], "liver", 0.5), (CASES[1], "liver", 0.6)])
    reach(plan, "LoRA", 0, [0.6, 0.8], "again")
    assert cells_of(main_table(plan))[0] == ["ellipse in the box", "-", "55.0", "-", "-"]


def test_ablation_and_widths_are_tested_too_each_table_for_itself_and_no_pair_twice(content, plan_of):
    plan = plan_of(
        content
        | {
            "ablation": {"of": "LoRA + COBOT"},
            "widths": {"of": ["LoRA", "LoRA + COBOT"], "values": [4, 8]},
        }
    )
    reached = {method: 0.5 + 0.01 * number for number, method in enumerate(plan.methods)}
    for method, dice in reached.items():
        reach(plan, method, 0, [dice, dice])
    found = paired_tests(plan)
    pairs = {title: [(one.base, one.method) for one in tests] for title, tests in found.items()}
    parts = ["coefficients", "hypercomplex", "coefficients, hypercomplex", "coefficients, relation"]
    assert pairs == {
        "COBOT against its base": [("LoRA", "LoRA + COBOT")],
        "Tests of the ablation": [
            *(("LoRA", f"LoRA + COBOT, {part}") for part in parts),
            ("LoRA + COBOT, fixed", "LoRA + COBOT"),
            ("LoRA + COBOT, linear", "LoRA + COBOT"),
        ],
        "Tests of the widths": [("LoRA, width 8", "LoRA + COBOT, width 8")],
    }
    for tests in found.values():
        for one, test in tests.items():
            assert test.gain == pytest.approx(reached[one.method] - reached[one.base])
            assert test.p == 0.5  # of two patients
            assert test.p_adjusted == min(1, len(tests) * 0.5)
    (table1, table2, _) = ablation_tables(plan).values()
    assert [row[-1] for row in cells_of(table1)] == [
        f"{100 * reached[name]:.1f}" for name in ("LoRA", *(f"LoRA + COBOT, {part}" for part in parts), "LoRA + COBOT")
    ]
    assert cells_of(table2) == [
        ["fixed, random", "0", f"{100 * reached['LoRA + COBOT, fixed']:.1f}"],
        ["learnable", "0", f"{100 * reached['LoRA + COBOT']:.1f}"],
    ]
    assert cells_of(tables.test_tables(plan)["Tests of the widths"])[0][:5] == [
        *("LoRA + COBOT, width 8", "LoRA, width 8", "phantom", "2", "+1.00"),
    ]


def test_the_files_hold_what_was_reached_on_every_data_set(content, plan_of):
    content["datasets"]["again"] = content["datasets"]["phantom"]
    content["methods"]["only here"] = LORA | {"rank": 8, "datasets": ["again"]}
    plan = plan_of(content | {"seeds": [0, 1], "learning_rate": {"rates": [1e-4, 1e-3, 1e-2], "seeds": [0, 1]}})
    at_rate = {1e-4: 0.4, 1e-3: 0.6, 1e-2: None}  # where training diverges
    for run in plan.runs:
        if run.learning_rate is None:
            continue
        dice = at_rate[run.learning_rate]
        scores = [] if dice is None else [("a", "liver", dice + 0.1 * run.seed)]
        record = Record(plan.settings(run), scores, diverged=None if scores else "too high")
        write_record(plan.folder_of(run), record)
    reached = {
        ("phantom", "LoRA"): ([0.50, 0.60], [0.70, 0.80]),
        ("phantom", "LoRA + COBOT"): ([0.55, 0.65], [0.80, 0.80]),
        ("again", "LoRA"): ([0.10, 0.20], [0.30, 0.40]),
        ("again", "LoRA + COBOT"): ([0.30, 0.20], [0.30, 0.40]),
        ("again", "only here"): ([0.90, 0.90], [0.90, 0.90]),
    }
    for (dataset, method), by_seed in reached.items():
        for seed, dice in enumerate(by_seed):
            reach(plan, method, seed, dice, dataset, encoder_parameters=7, peak_memory=10**9, adapter_size=5)
    adapter = adapt(build_sam("vit_mini", image_size=64), "lora", orchestrate=True, decoder="frozen")
    for dataset, seed in (("phantom", 0), ("again", 0), ("again", 1)):
        save_adapter(adapter, plan.folder_of(Run(dataset, "LoRA + COBOT", seed)) / "last")
    files = {path.name: path for path in write_report(plan)}
    pictures = [f"relation_{dataset}_LoRA_+_COBOT.png" for dataset in plan.study.datasets]
    assert list(files) == ["results.md", "results.csv", "scores.csv", "tests.csv", "rates.csv", *pictures]
    assert [round(Image.open(files[name]).size[0] / 1050) for name in pictures] == [1, 2]  # a matrix for each seed

    assert cells_of(main_table(plan)) == [
        ["LoRA", "7", "65.0 ± 14.1", "25.0 ± 14.1", "45.0"],
        ["LoRA + COBOT", "7", "70.0 ± 14.1", "30.0 ± 7.1", "50.0"],
        ["only here", "7", "-", "90.0 ± 0.0", "-"],
    ]
    assert cells_of(rate_table(plan)) == [
        ["LoRA", "0.001", "0.001"],
        ["LoRA + COBOT", "0.001", "0.001"],
        ["only here", "-", "0.001"],
    ]
    results = {(row["dataset"], row["method"]): row for row in rows_of(files["results.csv"])}
    assert results.keys() == reached.keys() | {("average", "LoRA"), ("average", "LoRA + COBOT")}
    for key, by_seed in reached.items():
        assert float(results[key]["dice_mean"]) == pytest.approx(fmean(fmean(dice) for dice in by_seed), abs=1e-6)
    assert results["average", "LoRA + COBOT"]["dice_mean"] == "0.500000"
    row = results["again", "LoRA"]
    assert (row["learning_rate"], row["seeds"], row["dice_deviation"]) == ("0.001", "2", "0.141421")
    assert (row["seconds_per_epoch"], row["peak_memory_bytes"], row["adapter_bytes"]) == ("1.500", "1000000000", "5")

    rates = rows_of(files["rates.csv"])
    assert len(rates) == 5 * 3 * 2
    tried = [row for row in rates if (row["dataset"], row["method"]) == ("again", "LoRA")]
    assert [(row["learning_rate"], row["seed"], row["dice"]) for row in tried] == [
        *(("0.0001", "0", "0.400000"), ("0.0001", "1", "0.500000")),
        *(("0.001", "0", "0.600000"), ("0.001", "1", "0.700000")),
        *(("0.01", "0", ""), ("0.01", "1", "")),
    ]

    tests = {(row["dataset"], row["method"]): row for row in rows_of(files["tests.csv"])}
    assert tests.keys() == {("phantom", "LoRA + COBOT"), ("again", "LoRA + COBOT")}
    test = tests["phantom", "LoRA + COBOT"]
    assert (test["table"], test["base"], test["patients"]) == ("COBOT against its base", "LoRA", "2")
    assert (test["gain"], test["better"], test["worse"], test["p"], test["p_corrected"]) == (
        *("0.050000", "2", "0"),
        *("0.5", "1.0"),
    )


def test_the_report_names_runs_that_are_not_done_and_draws_the_widths(content, plan_of):
    plan = plan_of(content | {"widths": {"of": ["LoRA"], "values": [4, 8]}, "ablation": {"of": "LoRA + COBOT"}})
    reach(plan, "LoRA", 0, [0.6, 0.8], peak_memory=700_000_000, adapter_size=3_000_000)
    reach(plan, "LoRA, width 8", 0, [0.7, 0.9])
    assert width_courses(plan) == {"phantom": {"LoRA": {4: [0.7], 8: [0.8]}}}
    files = write_report(plan, {Run("phantom", "LoRA + COBOT", 0): "out of memory"})
    assert [path.name for path in files] == ["results.md", "results.csv", "scores.csv", "tests.csv", "widths.png"]
    text = files[0].read_text(encoding="utf-8")
    assert f"2 of 9 runs are done (monai_cobot {__version__}, cpu)." in text
    assert "- phantom · LoRA + COBOT · seed 0: out of memory" in text
    assert "| fixed, random |" in text
    assert "| LoRA         |        1.5 |             700 |        3.00 |" in text
    assert Image.open(files[4]).size[0] > 900
    assert [(row["method"], row["patient"], row["dice"]) for row in rows_of(files[2])[:2]] == [
        ("LoRA", "phantom_006", "0.600000"),
        ("LoRA", "phantom_007", "0.800000"),
    ]


@pytest.mark.parametrize(
    ("method", "options", "names"),
    [
        ("lora", {"blocks": 2}, ["q6", "v6", "q7", "v7"]),
        ("lora", {}, [f"{kind}{block}" for block in range(8) for kind in "qv"]),
        ("houlsby", {"blocks": 1}, ["a7", "m7"]),
        ("adaptformer", {"blocks": 3}, ["5", "6", "7"]),
    ],
)
def test_the_slots_of_a_relation_matrix_are_named_after_their_blocks(tmp_path, method, options, names):
    adapter = adapt(build_sam("vit_mini", image_size=64), method, orchestrate=True, decoder="frozen", **options)
    config = read_adapter_config(save_adapter(adapter, tmp_path / "adapter"))
    assert slot_names(config, adapter.orchestrator.num_slots) == names


def test_methods_have_their_own_columns_of_options(content, plan_of):
    assert plan_of(content).methods == {"LoRA": LORA, "LoRA + COBOT": LORA_COBOT}
