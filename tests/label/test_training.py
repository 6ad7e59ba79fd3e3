import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from monai_cobot.data import open_dataset, read_mask
from monai_cobot.errors import describe_cause
from monai_cobot.label.training import (
    LabelledImage,
    Orders,
    _train,
    _write_data_list,
    check_options_of_training,
    images_of_labels,
    new_adapter_name,
    prepare,
    validation_dsc,
    wanted_labels,
)
from monai_cobot.label.versions import list_versions
from monai_cobot.peft import read_adapter_config


@pytest.fixture
def images(balls, tmp_path: Path) -> list[LabelledImage]:
    """Three images; the third client has other values."""
    studies = balls(tmp_path / "studies")
    truth = nib.load(studies / "truth" / "ball_2.nii.gz")
    nib.save(nib.Nifti1Image((np.asarray(truth.dataobj) * 7).astype(np.uint8), truth.affine), studies / "sevens.nii.gz")
    files = [studies / "truth" / "ball_0.nii.gz", studies / "truth" / "ball_1.nii.gz", studies / "sevens.nii.gz"]
    values = [{"ball": 1}, {"ball": 1}, {"other": 1, "ball": 7}]
    return [
        LabelledImage(f"ball_{n}", str(studies / f"ball_{n}.nii.gz"), str(file), of, [n])
        for n, (file, of) in enumerate(zip(files, values, strict=True))
    ]


def test_labels_have_one_value_in_all_images_whatever_the_clients_numbered_them(images, tmp_path):
    labels = _write_data_list(tmp_path / "work", images, {"ball": 3})
    assert labels == {"ball": 3}
    found = open_dataset("msd", tmp_path / "work" / "list.json", preset="ct_abdomen")
    assert found.labels == {"ball": 3}
    for case in [*found.training, *found.validation]:
        truth = read_mask(Path(images[0].image).parent / "truth" / f"{case.name}.nii.gz").array > 0
        assert (read_mask(case.masks[0].path).array == 3 * truth).all()


def test_labels_without_names_are_those_of_the_adapter_or_numbered(images, tmp_path):
    nameless = [replace(image, values={}) for image in images[:2]]
    assert _write_data_list(tmp_path / "work", nameless, {"ball": 1}) == {"ball": 1}
    assert _write_data_list(tmp_path / "work", nameless, None) == {"label 1": 1}


def test_values_without_names_are_no_label_of_a_new_adapter_whose_others_have_names(
    images, save_ball_adapter, tmp_path, caplog
):
    nameless = replace(images[0], values={})
    assert images_of_labels([nameless, *images[1:]], None) == images[1:]
    assert "ball_0 is not trained on" in caplog.text
    assert images_of_labels([nameless], None) == [nameless]
    config = read_adapter_config(save_ball_adapter(tmp_path / "ball"))
    assert images_of_labels([nameless, *images[1:]], config) == [nameless, *images[1:]]


def test_labels_that_are_named_with_digits_stay_what_they_are(images, tmp_path):
    teeth = [replace(image, values={"12": 1}) for image in images]
    _write_data_list(tmp_path / "work", teeth, {"12": 1})
    assert open_dataset("msd", tmp_path / "work" / "list.json", preset="ct_abdomen").labels == {"12": 1}


def test_a_label_that_cannot_be_read_costs_the_others_nothing(images, tmp_path, capsys):
    Path(images[1].label).write_bytes(b"half")
    _write_data_list(tmp_path / "work", images, {"ball": 1})
    listed = json.loads((tmp_path / "work" / "list.json").read_text(encoding="utf-8"))["training"]
    assert [entry["name"] for entry in listed] == ["ball_0", "ball_2"]
    assert "ball_1 is left out" in capsys.readouterr().out


def test_a_new_adapter_takes_all_labels_and_one_that_is_there_its_own(images, save_ball_adapter, tmp_path):
    assert wanted_labels(images, None, None) == {"ball": 1, "other": 2}
    assert wanted_labels(images, None, ["other"]) == {"other": 1}
    config = read_adapter_config(save_ball_adapter(tmp_path / "ball"))
    assert wanted_labels(images, config, None) == {"ball": 1}
    assert wanted_labels([replace(image, values={}) for image in images], None, None) is None
    with pytest.raises(ValueError, match=r"ball: there is no such label .* labels are liver"):
        wanted_labels([replace(image, values={"liver": 1}) for image in images], config, None)
    with pytest.raises(ValueError, match="othr: there is no such label on the server, whose labels are ball, other"):
        wanted_labels(images, None, ["ball", "othr"])
    with pytest.raises(ValueError, match=r"liver: .* whose labels are without names"):
        wanted_labels([replace(image, values={}) for image in images], None, ["liver"])
    assert new_adapter_name(["left kidney", "liver"], ["vit_mini"]) == "left_kidney_liver"
    assert new_adapter_name([], ["trained"]) == "trained_2"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epoch": 3}, "no option 'epoch'"),
        ({"output_dir": "/tmp"}, "no option 'output_dir'"),
        ({"method": "lora"}, "the adapter that is trained has its own"),
        ({"epochs": 0}, "epochs is 0"),
        ({"preset": "$__import__('os').system('true')"}, "a plain value"),
    ],
)
def test_options_of_a_request_are_checked(options, message):
    check_options_of_training({"epochs": 2, "learning_rate": 1e-4}, is_new=False)
    check_options_of_training({"method": "lora", "rank": 2}, is_new=True)
    with pytest.raises(ValueError, match=message):
        check_options_of_training(options, is_new=False)


def test_nothing_of_a_request_an_adapter_or_a_label_is_run_as_a_program(orders, tmp_path):
    trap = tmp_path / "ran"
    program = f"$open({str(trap)!r}, 'w')"
    for options in ({"method_options": {"alpha": [program]}}, {"decoder": program}, {"preset": program}):
        prepare(tmp_path / "work", replace(orders, options={**orders.options, **options}))
        with pytest.raises(ValueError, match="a plain value is expected"):
            _train(tmp_path / "work")
    images = [replace(image, values={program: 7 if "sevens" in image.label else 1}) for image in orders.images]
    prepare(tmp_path / "work", replace(orders, labels={program: 1}, images=images))
    _train(tmp_path / "work")
    assert read_adapter_config(Path(orders.adapter)).labels == {program: 1}
    assert not trap.exists()


@pytest.fixture
def orders(images, save_ball_adapter, repository, tmp_path) -> Orders:
    options = {"sam_variant": "vit_mini", "image_size": 64, "method": "lora", "decoder": "full", "epochs": 1}
    return Orders(
        adapter=str(save_ball_adapter(tmp_path / "adapters" / "ball")),
        train_config=str(repository / "bundles" / "cobot_sam" / "configs" / "train.json"),
        options={**options, "orchestrate": False, "min_foreground": 10, "device": "cpu", "preset": "window:-100,200"},
        labels={"ball": 1},
        images=images,
    )


def test_a_training_puts_the_next_version_into_use_and_leaves_nothing_else(orders, tmp_path, capsys):
    work, adapter = tmp_path / "work", Path(orders.adapter)
    assert not prepare(work, orders)
    _train(work)
    assert "ball: version 2 is in use now, validation DSC 0." in capsys.readouterr().out
    assert list_versions(adapter) == [1, 2]
    config = read_adapter_config(adapter)
    assert (config.labels, config.preset) == ({"ball": 1}, "window:-100,200")
    assert 0 < validation_dsc(config) < 1
    assert (adapter / "versions" / "2" / "curves.png").is_file()
    assert not work.exists()


def test_a_training_that_cannot_be_done_leaves_the_adapter_and_says_why(orders, tmp_path):
    prepare(tmp_path / "work", replace(orders, options={**orders.options, "min_foreground": 5000}))
    with pytest.raises((RuntimeError, ValueError)) as raised:
        _train(tmp_path / "work")
    assert "5000" in describe_cause(raised.value)
    assert list_versions(Path(orders.adapter)) == []


def test_the_same_orders_go_on_and_others_begin_anew(orders, tmp_path):
    prepare(tmp_path / "work", orders)
    (tmp_path / "work" / "output").mkdir()
    assert prepare(tmp_path / "work", orders)
    assert (tmp_path / "work" / "output").is_dir()
    assert not prepare(tmp_path / "work", replace(orders, images=orders.images[:2]))
    assert not (tmp_path / "work" / "output").exists()
