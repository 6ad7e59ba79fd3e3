import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from monai_cobot.inferers import EmbeddingCache, segment_prompt
from monai_cobot.label.models import Models
from monai_cobot.label.prompts import read_prompt
from monai_cobot.label.versions import publish
from monai_cobot.label.volumes import OpenVolumes
from monai_cobot.networks import build_sam
from monai_cobot.peft import AdapterError, adapt, save_adapter


@pytest.fixture
def models(save_ball_adapter, tmp_path: Path) -> Models:
    save_ball_adapter(tmp_path / "adapters" / "ball")
    return Models(tmp_path / "adapters", image_size=64, device="cpu")


def test_each_adapter_of_the_folder_is_a_model_and_the_sam_itself_comes_last(models, save_ball_adapter):
    save_ball_adapter(models.folder / "another", seed=1)
    assert list(models.names()) == ["another", "ball", "vit_mini"]
    assert models.names()["ball"].labels == {"ball": 1}


def test_damaged_and_foreign_adapters_hide_no_other_and_are_reported_once(models, caplog):
    (models.folder / "damaged").mkdir()
    (models.folder / "damaged" / "adapter_config.json").write_text("{", encoding="utf-8")
    foreign = save_adapter(adapt(build_sam("vit_mini", image_size=64), "bitfit"), models.folder / "foreign")
    config = foreign / "adapter_config.json"
    config.write_text(config.read_text(encoding="utf-8").replace("vit_mini", "vit_b"), encoding="utf-8")
    strange = save_adapter(adapt(build_sam("vit_mini", image_size=64), "bitfit"), models.folder / "strange")
    described = json.loads((strange / "adapter_config.json").read_text(encoding="utf-8")) | {"labels": ["liver"]}
    (strange / "adapter_config.json").write_text(json.dumps(described), encoding="utf-8")
    for _ in range(2):
        assert list(models.names()) == ["ball", "vit_mini"]
    assert "strange is left out" in caplog.text
    assert caplog.text.count("damaged is left out") == 1
    assert caplog.text.count("foreign is left out: it is for vit_b, whose weights are not here") == 1


def test_all_adapters_share_one_sam(models, save_ball_adapter):
    save_ball_adapter(models.folder / "another", seed=1)
    base, one, other = (models.load(name).network.sam for name in ("vit_mini", "ball", "another"))
    shared = [
        {parameter.data_ptr() for parameter in sam.image_encoder.parameters()} & _pointers(base) for sam in (one, other)
    ]
    assert all(len(pointers) > 50 for pointers in shared)
    assert models.load("ball") is models.load("ball")


def _pointers(sam) -> set[int]:
    return {parameter.data_ptr() for parameter in sam.image_encoder.parameters()}


def test_a_new_version_is_taken_for_the_next_request(models, save_ball_adapter, tmp_path):
    before = models.load("ball")
    publish(models.folder / "ball", save_ball_adapter(tmp_path / "trained", seed=2))
    after = models.load("ball")
    assert after is not before
    assert models.load("ball") is after


@pytest.mark.parametrize("name", ["nothing", "../adapters/ball", "ball/versions/1", "", "."])
def test_only_names_of_the_folder_are_models(models, name):
    with pytest.raises(KeyError):
        models.load(name)


def test_a_sam_without_weights_is_refused(tmp_path):
    with pytest.raises(ValueError, match="sam_checkpoint"):
        Models(tmp_path, "vit_b")


def test_an_adapter_with_the_name_of_the_sam_does_not_take_its_place(models):
    shutil.copytree(models.folder / "ball", models.folder / "vit_mini")
    assert models.names()["vit_mini"] is None
    with pytest.raises(AdapterError, match="give its folder another name"):
        models._config("vit_mini")


def test_many_threads_with_several_models_on_one_volume_get_what_each_asked_for(models, balls, tmp_path):
    path = balls(tmp_path / "studies") / "ball_0.nii.gz"
    volumes = OpenVolumes(EmbeddingCache(), look_ahead=False)

    def ask(number: int) -> np.ndarray:
        model = models.load(("ball", "vit_mini")[number % 2])
        session = volumes.session(path, model, "window:-100,200")
        label = volumes.new_label()
        low = 2 + number % 5
        segment_prompt(session, read_prompt({"slice": 6, "box": [low, 6, 20 + low, 24]}, (30, 28, 12)), label)
        found = session.mask(label)
        session.remove(label)
        return found

    alone = [ask(number) for number in range(10)]
    assert len({mask.tobytes() for mask in alone}) > 3
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(ask, list(range(10)) * 3))
    assert all((mask == alone[number % 10]).all() for number, mask in enumerate(together))


def test_a_file_that_was_changed_is_read_again(models, balls, tmp_path):
    studies = balls(tmp_path / "studies")
    volumes = OpenVolumes(EmbeddingCache(), look_ahead=False)
    model = models.load("vit_mini")
    path = studies / "ball_0.nii.gz"
    first = volumes.session(path, model)
    assert volumes.session(path, model) is first
    shutil.copyfile(studies / "ball_1.nii.gz", path)
    assert volumes.session(path, model) is not first
    with pytest.raises(FileNotFoundError):
        volumes.session(studies / "gone.nii.gz", model)
