import json

import pytest

from monai_cobot.networks import build_sam
from monai_cobot.peft import adapt, options_of
from monai_cobot.study import Run, Study
from monai_cobot.study.plan import ablation_rows, base_of, method_of_width, write_orders
from monai_cobot.study.records import Record, write_record
from tests.study.conftest import LORA, LORA_COBOT


def done(plan, run: Run, dice: float | None, **changes) -> None:
    """Says that a run reached a DSC, or diverged."""
    scores = [] if dice is None else [("a", "liver", dice)]
    record = Record(plan.settings(run) | changes, scores, diverged=None if dice is not None else "too high")
    write_record(plan.folder_of(run), record)


def test_no_test_patient_is_in_the_training_or_in_the_choice_of_a_learning_rate(content, plan_of):
    plan = plan_of(content | {"learning_rate": {"rates": [1e-3]}})
    test, choice = (
        json.loads(path.read_text(encoding="utf-8"))
        for path in (plan.patients["phantom"].test, plan.patients["phantom"].choice)
    )
    assert test["training"]
    assert test["validation"]
    assert not {test["patients"][case] for case in test["validation"]} & set(choice["patients"].values())
    # what is chosen on is trained on only once it is chosen
    assert sorted(choice["training"] + choice["validation"]) == sorted(test["training"])


def test_runs_on_other_patients_are_not_put_beside_those_that_are_there(content, plan_of):
    plan_of(content)
    content["datasets"]["phantom"] |= {"max_cases": 4}
    with pytest.raises(ValueError, match="the patients of this data set are others than when the study began"):
        plan_of(content)


def test_fewer_training_cases_leave_the_test_patients_as_they_are(content, plan_of):
    whole = content["datasets"]["phantom"]
    content["datasets"] |= {f"{count} cases": whole | {"training_cases": count} for count in (2, 4)}
    plan = plan_of(content)
    split = {name: json.loads(patients.test.read_text(encoding="utf-8")) for name, patients in plan.patients.items()}
    assert split["2 cases"]["validation"] == split["4 cases"]["validation"] == split["phantom"]["validation"]
    training = [split[name]["training"] for name in ("2 cases", "4 cases", "phantom")]
    assert [len(cases) for cases in training] == [2, 4, 6]
    assert set(training[0]) < set(training[1]) < set(training[2])
    assert "training_cases" not in plan.options(Run("2 cases", "LoRA", 0))


def test_a_method_can_be_kept_to_some_data_sets(content, plan_of):
    content["datasets"]["other"] = content["datasets"]["phantom"]
    content["methods"]["LoRA"] = LORA | {"datasets": ["other"]}
    plan = plan_of(content)
    assert {(run.dataset, run.method) for run in plan.runs} == {
        ("phantom", "LoRA + COBOT"),
        ("other", "LoRA"),
        ("other", "LoRA + COBOT"),
    }
    assert "datasets" not in plan.options(Run("other", "LoRA", 0))
    # what an ablation asks for comes in addition
    plan = plan_of(content | {"ablation": {"of": "LoRA + COBOT", "datasets": ["phantom"]}})
    assert Run("phantom", "LoRA", 0) in plan.runs


def test_a_final_run_at_a_rate_that_is_no_longer_the_best_is_not_done(content, plan_of):
    content["methods"] = {"LoRA": LORA}
    plan = plan_of(content | {"learning_rate": {"rates": [1e-4]}})
    final, tried = Run("phantom", "LoRA", 0), plan.choice_runs("phantom", "LoRA")
    done(plan, tried[0], 0.5)
    done(plan, final, 0.6)
    write_orders(plan, final)
    folder = plan.folder_of(final)
    (folder / "checkpoint.pt").touch()
    assert plan.record(final).dice() == 0.6

    content |= {"learning_rate": {"rates": [1e-4, 1e-3]}}
    for _ in range(2):  # also once another process, or an earlier call, has made the new choice
        plan = plan_of(content)
        (new,) = [run for run in plan.choice_runs("phantom", "LoRA") if run.learning_rate == 1e-3]
        assert plan.record(final) is None
        assert plan.records("phantom", "LoRA") == []
        done(plan, new, 0.7)
    assert plan.chosen_rate("phantom", "LoRA") == 1e-3
    assert plan.record(final) is None

    write_orders(plan, final)  # as it is done again: from its beginning, at the rate that is the best now
    assert sorted(path.name for path in folder.iterdir() if path.name != "lock") == ["run.json"]
    done(plan, final, 0.8)
    write_orders(plan, final)
    assert plan_of(content).record(final).dice() == 0.8


def test_the_rate_with_the_best_mean_over_the_sweeps_seeds_is_chosen(content, plan_of):
    plan = plan_of(content | {"learning_rate": {"rates": [1e-4, 1e-3, 1e-2, 1], "seeds": [0, 1]}})
    reached = {1e-4: (0.5, 0.7), 1e-3: (0.9, 0.3), 1e-2: (0.6, 0.6), 1: (0.9, None)}
    runs = plan.choice_runs("phantom", "LoRA")
    assert len(runs) == 8
    for run in runs[:-1]:
        done(plan, run, reached[run.learning_rate][run.seed])
    assert plan.chosen_rate("phantom", "LoRA") is None
    done(plan, runs[-1], reached[runs[-1].learning_rate][runs[-1].seed])
    # 1e-3, 1e-2 and 1e-4 have the same mean; 1 diverged once
    assert plan.chosen_rate("phantom", "LoRA") == 1e-4
    final = Run("phantom", "LoRA", 0)
    assert plan.options(final)["learning_rate"] == 1e-4
    assert plan.options(final)["split"].endswith("test.json")
    assert plan.options(runs[0])["split"].endswith("choice.json")


def test_runs_with_other_options_are_refused_with_what_differs(content, plan_of):
    plan = plan_of(content)
    done(plan, Run("phantom", "LoRA", 0), 0.5, epochs=7)
    with pytest.raises(ValueError, match=r"LoRA · seed 0 was done with other options: epochs was 7 and is 1\. Put"):
        plan_of(content)


def test_runs_with_other_weights_of_the_same_sam_are_refused(content, plan_of):
    plan = plan_of(content)
    for run, weights in zip(plan.runs, ("a" * 64, "b" * 64), strict=True):
        write_record(plan.folder_of(run), Record(plan.settings(run), [("a", "liver", 0.5)], base_sha256=weights))
    with pytest.raises(ValueError, match=r"seed 0 was done with other weights of the SAM \(b{12}\) than .*a{12}"):
        plan_of(content)


def test_runs_are_done_method_by_method_each_after_those_that_choose_its_rate(content, plan_of):
    content["datasets"]["again"] = content["datasets"]["phantom"]
    plan = plan_of(content | {"learning_rate": {"rates": [1e-4, 1e-3]}, "widths": {"of": ["LoRA"], "values": [8]}})
    parts = [(dataset, rate) for dataset in ("phantom", "again") for rate in (1e-4, 1e-3, None)]
    methods = ("LoRA", "LoRA + COBOT", "LoRA, width 8")
    assert plan.runs == [Run(dataset, method, 0, rate) for method in methods for dataset, rate in parts]


def test_a_method_named_as_one_that_is_varied_is_refused(content, plan_of):
    content["methods"]["LoRA, width 8"] = LORA | {"rank": 5}
    with pytest.raises(ValueError, match="LoRA, width 8: what is varied is named so; choose another name"):
        plan_of(content | {"widths": {"of": ["LoRA"], "values": [8]}})


def test_the_ablation_has_the_parts_of_cobot_that_its_table_says(content, plan_of):
    plan = plan_of(content | {"ablation": {"of": "LoRA + COBOT"}})
    slots, width = 16, 4
    coefficients, relation, quaternion = 2 * slots * width, slots**2, slots * width**2 // 4
    tables = ablation_rows(plan.study, plan.methods)
    expected = {
        ("", "", ""): 0,
        ("yes", "", ""): coefficients,
        ("", "", "yes"): quaternion,
        ("yes", "", "yes"): coefficients + quaternion,
        ("yes", "yes", ""): coefficients + relation,
        ("yes", "yes", "yes"): coefficients + relation + quaternion,
        ("fixed, random",): coefficients + quaternion,
        ("learnable",): coefficients + relation + quaternion,
        ("linear",): coefficients + relation + slots * width**2,
        ("hyper-complex",): coefficients + relation + quaternion,
    }
    found = {row.parts: _cobot_parameters(plan.methods[row.method]) for _, rows in tables.values() for row in rows}
    assert found == expected
    # the base and the whole are methods of the study, and are not run twice
    assert [row.method for _, rows in tables.values() for row in rows].count("LoRA + COBOT") == 3
    assert next(iter(tables.values()))[1][0].method == "LoRA"


def _cobot_parameters(options) -> int:
    """As the bundle's train.json makes an adapter of the options."""
    chosen = options_of(options["method"], rank=options["rank"]) | options.get("method_options", {})
    adapter = adapt(build_sam("vit_mini", image_size=64), options["method"], options["orchestrate"], "full", **chosen)
    return 0 if adapter.orchestrator is None else sum(part.numel() for part in adapter.orchestrator.parameters())


def test_a_width_that_a_method_has_already_is_not_run_twice(content, plan_of):
    content["methods"]["AdaptFormer"] = {"method": "adaptformer", "orchestrate": False}  # 16 wide by itself
    plan = plan_of(content | {"widths": {"of": ["LoRA", "AdaptFormer"], "values": [4, 16]}})
    named = {
        (name, width): method_of_width(plan.study, plan.methods, name, width)
        for name in ("LoRA", "AdaptFormer")
        for width in (4, 16)
    }
    assert named["LoRA", 4] == "LoRA"
    assert named["AdaptFormer", 16] == "AdaptFormer"
    assert plan.methods[named["LoRA", 16]] == LORA | {"rank": 16}
    assert plan.methods[named["AdaptFormer", 4]]["bottleneck"] == 4
    assert len(plan.runs) == 5


def test_the_base_of_a_method_is_the_same_without_cobot():
    methods = {
        "a": LORA,
        "b": LORA_COBOT,
        "c": LORA_COBOT | {"method_options": {"relation": "fixed"}},
        "d": LORA_COBOT | {"rank": 8},
        "e": LORA_COBOT | {"orchestration_factor": 1},
        "f": {"method": "lora"},
        "g": {"method": "bitfit"},
    }
    bases = {"a": None, "b": "a", "c": "a", "d": None, "e": "a", "f": "a", "g": None}
    for options in ({}, {"orchestration_factor": 10, "method_options": {"hypercomplex": "linear"}}):
        study = Study("of bases", {}, methods, (0,), options)
        assert {name: base_of(study, methods, name) for name in methods} == bases


def test_an_ablation_keeps_the_options_of_all_runs_and_trains_its_base_once(content, plan_of):
    content["methods"] = {
        "AdaptFormer": {"method": "adaptformer", "orchestrate": False},
        "COBOT": {"method": "adaptformer", "method_options": {"dropout": 0.2}, "orchestration_factor": 3},
    }
    content["methods"]["AdaptFormer"]["method_options"] = {"dropout": 0.2}
    content["options"] = content["options"] | {"method_options": {"scale": 0.5}}
    plan = plan_of(content | {"ablation": {"of": "COBOT"}})
    assert len(plan.methods) == 2 + 6
    for run in plan.runs:
        options = plan.options(run)["method_options"]
        assert (options["scale"], options["dropout"]) == (0.5, 0.2)
    fixed = plan.options(Run("phantom", "COBOT, fixed", 0))
    assert fixed["method_options"] == {"scale": 0.5, "dropout": 0.2, "relation": "fixed"}
    assert fixed["orchestration_factor"] == 3
