import math
import re
from pathlib import Path

import pytest

from monai_cobot.options import check_head, check_known_options, check_label, check_option_names, check_options


@pytest.fixture
def train(repository: Path) -> str:
    return str(repository / "bundles" / "cobot_sam" / "configs" / "train.json")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"epochs": "abc"}, "epochs is 'abc'; a whole number of at least 1 is expected."),
        ({"epochs": 1.5}, "epochs is 1.5; a whole number of at least 1 is expected."),
        ({"batch_size": 0}, "batch_size is 0; a whole number of at least 1 is expected."),
        ({"rank": True}, "rank is True; a whole number of at least 1 is expected, or None."),
        ({"patience": 0}, "patience is 0; a whole number of at least 1 is expected, or None."),
        ({"seed": -1}, "seed is -1; a whole number of at least 0 is expected."),
        ({"learning_rate": -1}, "learning_rate is -1; a number of at least 0 is expected."),
        ({"learning_rate": math.nan}, "learning_rate is nan; a number of at least 0 is expected."),
        ({"weight_decay": "high"}, "weight_decay is 'high'; a number of at least 0 is expected."),
        ({"orchestrate": "false"}, "orchestrate is 'false'; True or False is expected, or None."),
        ({"label": 1.5}, "label is 1.5; a name or value of a label is expected, a list of several, or all."),
        ({"dataset_dir": 2024}, "dataset_dir is 2024; text is expected;"),
        ({"validation_fraction": 1}, "validation_fraction is 1; a number between 0 and 1 is expected."),
        ({"validation_fraction": "half"}, "validation_fraction is 'half'; a number between 0 and 1 is expected."),
        ({"max_jitter": 2.5}, "max_jitter is 2.5; a whole number of at least 0 is expected, or None."),
        ({"network_file": 3}, "network_file is 3; text is expected;"),
        ({"device": "gpu"}, "device is 'gpu'; this device cannot be used here"),
        ({"device": "cuda:99"}, "device is 'cuda:99'; this device cannot be used here"),
    ],
)
def test_a_value_of_another_kind_is_named_with_what_is_expected(options, said):
    with pytest.raises(ValueError, match=f"^{re.escape(said)}"):
        check_options(**options)


def test_every_wrong_option_is_named_at_once():
    with pytest.raises(ValueError, match=r"(?s)epochs is 0.*batch_size is 'x'"):
        check_options(epochs=0, seed=3, batch_size="x")


def test_a_label_is_refused_with_images_that_are_not_of_a_data_set():
    check_label("liver", own_images=False)
    check_label(None, own_images=True)
    with pytest.raises(ValueError, match=r"^label is 'liver', but with input or prompts .* leave label out"):
        check_label("liver", own_images=True)


def test_classes_are_refused_without_an_adapter_that_has_them():
    check_head("boxes", None)
    check_head("classes", 2)
    with pytest.raises(ValueError, match="name such an adapter as adapter_dir"):
        check_head("classes", None)
    with pytest.raises(ValueError, match="the adapter was trained for classes; leave head out"):
        check_head("boxes", 2)


def test_values_as_they_should_be_pass(tmp_path):
    check_options(
        epochs=3,
        image_size=None,
        learning_rate=1e-3,
        orchestrate=False,
        label=["liver", 2],
        split=None,
        dataset_dir=Path("data"),
        device="cpu",
        output_dir=tmp_path / "made" / "later",
    )
    assert not (tmp_path / "made").exists()


def test_an_output_folder_that_cannot_be_one_is_told_before_anything_runs(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file is a file\. Choose another folder"):
        check_options(output_dir=tmp_path / "file" / "run")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--epoch", "3"], "there is no option --epoch in .*train.json; did you mean --epochs?"),
        (["--sam-varaint=vit_b"], "did you mean --sam_variant?"),
        (["--trian#trainer#max_epochs", "3"], "--trian#trainer#max_epochs .* did you mean --train?"),
        (["--xyz", "3"], "the options stand at the top of that file"),
    ],
)
def test_a_misspelt_option_is_refused_with_the_one_that_was_meant(train, arguments, said):
    with pytest.raises(ValueError, match=said.replace("?", r"\?")):
        check_option_names(["run", "--config_file", train, *arguments])


def test_options_are_understood_as_fire_reads_them(train, tmp_path):
    arguments = ["--learning_rate", "-1", "--output-dir=x=y", "--noresume", "--tracking", "mlflow", "--run_name", "a"]
    check_option_names(["run", "training", f"--config_file=['{train}']", *arguments, "--", "--trace"])
    (tmp_path / "args.json").write_text(f'{{"config_file": "{train}", "epochs": 3}}', encoding="utf-8")
    check_option_names(["run", "--args_file", str(tmp_path / "args.json"), "--train#trainer#max_epochs", "4"])
    check_option_names(["ckpt_export", "--net_id", "network_def"])


def test_a_misspelt_option_in_a_file_of_arguments_is_refused(train, tmp_path):
    (tmp_path / "args.json").write_text(f'{{"config_file": "{train}", "epoch": 3}}', encoding="utf-8")
    with pytest.raises(ValueError, match="did you mean --epochs"):
        check_option_names(["run", "--args_file", str(tmp_path / "args.json")])


def test_options_from_a_file_are_checked_where_they_are_no_expressions():
    check_known_options({"epochs": "$2 + 3", "max_jitter": 3, "rank": 4})
    with pytest.raises(ValueError, match="rank is 0"):
        check_known_options({"epochs": "$2 + 3", "rank": 0})
