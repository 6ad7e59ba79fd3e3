import json
import re

import pytest

from monai_cobot.study import read_study
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
        ({"ablation": {"of": "LoRA"}}, "'LoRA' is without COBOT"),
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


def test_the_study_of_the_repository_can_be_read(repository, train_config):
    study = read_study(repository / "studies" / "real_sets.yaml", train_config)
    assert len(study.methods) >= 8
    assert len(study.seeds) == 3
