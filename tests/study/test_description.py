import json
import re

import pytest

from monai_cobot.study import read_study
from monai_cobot.study.description import merge_options
from monai_cobot.study.plan import all_methods, check_methods
from tests.study.conftest import LORA


def test_a_file_in_yaml_is_the_same_study_as_one_in_json(content, train_config, tmp_path):
    content |= {"seeds": [2, 1], "learning_rate": {"rates": [1e-3, 1e-4]}}
    (tmp_path / "study.json").write_text(json.dumps(content), encoding="utf-8")
    text = json.dumps(content).replace("0.001", "1e-3").replace("0.0001", "1e-4")  # numbers as a person writes them
    (tmp_path / "study.yaml").write_text(text, encoding="utf-8")
    study = read_study(tmp_path / "study.yaml", train_config)
    assert study == read_study(tmp_path / "study.json", train_config)
    assert study.learning_rates.rates == (1e-4, 1e-3)
    assert study.seeds == (1, 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"method": {}}, "there is no entry 'method' here; did you mean methods?"),
        ({"methods": {}}, "there is nothing under methods"),
        ({"options": {"epoch": 3}}, "options: there is no entry 'epoch' here; did you mean epochs?"),
        ({"options": {"epochs": 0}}, "options: epochs is 0; a whole number of at least 1 is expected."),
        ({"options": {"seed": 3}}, "options: seed is set by the study: it stands under seeds."),
        ({"options": {"max_cases": 9}}, "options: max_cases belongs to a data set"),
        ({"methods": {"a": {"method": "lroa"}}}, "methods: a: Unknown method 'lroa'"),
        ({"methods": {"a": {"rank": 4}}}, "methods: a: the option method is missing"),
        ({"methods": {"a b": LORA, "A_b": LORA}}, "'A_b' is too like 'a b'"),
        ({"seeds": [0, 0]}, "seeds is [0, 0]; one of them stands there twice."),
        ({"seeds": "0"}, "seeds is '0'; a list of whole numbers of at least 0 is expected."),
        ({"learning_rate": {"rates": [0, 1]}}, "a learning rate is above 0"),
        ({"datasets": {"ct": {"dataset": "phantom", "rank": 8}}}, "datasets: ct: rank belongs to a method"),
        ({"methods": {"a": LORA | {"datasets": ["ct"]}}}, "methods: a: datasets: there is no 'ct'"),
        ({"methods": {"a": LORA | {"training_cases": 4}}}, "methods: a: training_cases belongs to a data set"),
        ({"ablation": {"of": "LoRA"}}, "'LoRA' is without COBOT"),
        (
            {"options": {"method_options": {"relation": "fixed"}}, "ablation": {"of": "LoRA + COBOT"}},
            "ablation: of: 'LoRA + COBOT' says relation itself",
        ),
        (
            {
                "methods": {"a": {"method": "lora", "method_options": {"rank": 4}}},
                "widths": {"of": ["a"], "values": [4, 8]},
            },
            "widths: of: 'a' has rank among its method_options",
        ),
        ({"compare": {"LoRA": "LoRA + COBOT"}}, "a list of pairs [base, method] is expected."),
        ({"compare": [["LoRA", "DoRA"]]}, "compare: there is no 'DoRA'; there are LoRA, LoRA + COBOT."),
        ({"compare": [["LoRA", "LoRA"]]}, "compare: ['LoRA', 'LoRA'] is no pair of two methods"),
        ({"ablation": {"of": "LORA"}}, "there is no 'LORA'; there are LoRA, LoRA + COBOT."),
        ({"widths": {"of": ["LoRA"], "values": [4], "datasets": ["ct"]}}, "there is no 'ct'; there are phantom."),
    ],
)
def test_what_is_wrong_in_a_file_is_said_with_its_place(content, train_config, tmp_path, change, said):
    path = tmp_path / "study.json"
    path.write_text(json.dumps(content | change), encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        read_study(path, train_config)
    assert str(caught.value).startswith(str(path))


def test_a_learning_rate_is_swept_or_given_and_not_both(content, train_config, tmp_path):
    content |= {"learning_rate": {"rates": [1e-3]}}
    content["methods"]["LoRA"] = LORA | {"learning_rate": 1e-4}
    (tmp_path / "study.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match="methods: LoRA: learning_rate is chosen by the sweep"):
        read_study(tmp_path / "study.json", train_config)


def test_the_page_shows_the_study_of_the_phantom_as_it_is(repository):
    page = (repository / "docs" / "compare.md").read_text(encoding="utf-8")
    study = (repository / "studies" / "phantom.yaml").read_text(encoding="utf-8")
    assert f"```yaml\n{study[study.index('title:') :]}```" in page


@pytest.mark.parametrize("name", ["phantom", "real_sets"])
def test_the_methods_of_the_studies_of_the_repository_can_all_be_put_into_their_sams(repository, train_config, name):
    study = read_study(repository / "studies" / f"{name}.yaml", train_config)
    methods, _ = all_methods(study)
    assert len(methods) >= len(study.methods) >= 5
    check_methods(study, methods, train_config)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "vpt", "method_options": {"promtps": 5}}, "has no option 'promtps'"),
        ({"method": "bitfit", "orchestrate": True}, "method 'bitfit' has none"),
        ({"method": "lora", "decoder": "half"}, "Unknown decoder mode 'half'"),
        ({"method": "lora", "rank": 6}, "divisible by 4"),
        ({"method": "freeze", "head": "classes"}, "Method 'freeze' trains nothing"),
        ({"method": "lora", "blocks": 9}, "blocks=9 does not fit this encoder"),
        ({"method": "lora", "sam_variant": "vit_t"}, "Unknown SAM variant 'vit_t'"),
    ],
)
def test_a_method_that_cannot_be_is_told_before_anything_runs(content, plan_of, tmp_path, options, said):
    content["methods"]["odd"] = options
    with pytest.raises(ValueError, match=r"methods: odd: .*" + re.escape(said)):
        plan_of(content)
    assert not (tmp_path / "out").exists()


def test_options_of_a_method_come_over_those_of_all_runs_each_by_its_name():
    common, own = {"epochs": 2, "method_options": {"alpha": 1, "experts": 3}}, {"method_options": {"experts": 4}}
    assert merge_options(common, own) == {"epochs": 2, "method_options": {"alpha": 1, "experts": 4}}
    assert merge_options(common, {"epochs": 3}) == common | {"epochs": 3}
    assert common["method_options"] == {"alpha": 1, "experts": 3}
