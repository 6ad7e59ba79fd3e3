import json

import pytest

from monai_cobot.networks import build_sam
from monai_cobot.peft import adapt, options_of
from monai_cobot.study import Run
from monai_cobot.study.plan import ablation_rows, base_of, method_of_width
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
    with pytest.raises(ValueError, match=r"LoRA · seed 0 was done with other options: epochs was 7 and is 1\."):
        plan_of(content)


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


def test_a_width_that_a_method_has_already_is_not_run_twice(content, plan_of, train_config):
    content["methods"]["AdaptFormer"] = {"method": "adaptformer", "orchestrate": False}  # 16 wide, as the bundle has it
    plan = plan_of(content | {"widths": {"of": ["LoRA", "AdaptFormer"], "values": [4, 16]}})
    named = {
        (name, width): method_of_width(plan.study, plan.methods, name, width, train_config)
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
    }
    assert {name: base_of(methods, name) for name in methods} == {"a": None, "b": "a", "c": "a", "d": None}
