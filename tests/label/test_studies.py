"""The folder of studies, without a server."""

import json
import shutil
import threading
import time
from pathlib import Path

import pytest


@pytest.fixture
def open_studies(monailabel, balls, tmp_path: Path):
    from monai_cobot.label.studies import Studies

    balls(tmp_path / "studies")

    def opened(auto_reload=False):
        return Studies(str(tmp_path / "studies"), ["*.nii.gz", "*.nrrd"], auto_reload=auto_reload, read_only=False)

    return opened


def label_of(studies, number: int = 0) -> str:
    return str(Path(studies._datastore_path) / "truth" / f"ball_{number}.nii.gz")


def test_a_list_that_was_damaged_is_made_anew_from_the_files(open_studies):
    studies = open_studies()
    studies.save_label("ball_0", label_of(studies), "final", {"label_info": [{"name": "ball", "idx": 1}]})
    path = Path(studies._datastore_config_path)
    path.write_bytes(path.read_bytes()[:200])
    again = open_studies()
    assert again.get_labeled_images() == ["ball_0"]
    assert sorted(again.list_images()) == ["ball_0", "ball_1", "ball_2"]
    assert len(list(path.parent.glob("*.damaged_*"))) == 1


def test_a_label_that_cannot_be_written_leaves_the_one_before(open_studies, monkeypatch):
    import monai_cobot.label.studies as module

    studies = open_studies()
    studies.save_label("ball_0", label_of(studies), "final", {"label_info": "first"})
    kept = Path(studies.get_label_uri("ball_0", "final"))
    before = kept.read_bytes(), Path(studies._datastore_config_path).read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space"):
        studies.save_label("ball_0", label_of(studies, 1), "final", {"label_info": "second"})
    assert (kept.read_bytes(), Path(studies._datastore_config_path).read_bytes()) == before
    assert not list(kept.parent.glob(".incoming*"))


def test_the_list_is_told_while_a_large_image_is_kept(open_studies, tmp_path, monkeypatch):
    import monai_cobot.label.studies as module

    studies = open_studies()
    copying, go_on, copy = threading.Event(), threading.Event(), module.shutil.copyfile

    def slowly(*arguments):
        copying.set()
        assert go_on.wait(30)
        return copy(*arguments)

    monkeypatch.setattr(module.shutil, "copyfile", slowly)
    source = str(Path(studies._datastore_path) / "ball_0.nii.gz")
    kept = []
    adding = threading.Thread(target=lambda: kept.append(studies.add_image("large", source, {})))
    adding.start()
    assert copying.wait(30)
    told = []
    telling = threading.Thread(target=lambda: told.append(studies.status()["total"]))
    telling.start()
    telling.join(10)
    go_on.set()
    adding.join()
    telling.join()
    assert told == [3]
    assert kept == ["large"]
    assert studies.status()["total"] == 4


def test_a_label_in_another_format_takes_the_place_of_the_one_before(open_studies, tmp_path):
    import SimpleITK as sitk

    studies = open_studies()
    studies.save_label("ball_0", label_of(studies), "final", {})
    sitk.WriteImage(sitk.ReadImage(label_of(studies)), str(tmp_path / "label.nrrd"))
    studies.save_label("ball_0", str(tmp_path / "label.nrrd"), "final", {})
    folder = Path(studies._datastore_path) / "labels" / "final"
    assert [path.name for path in folder.iterdir()] == ["ball_0.nrrd"]
    assert open_studies().get_label_uri("ball_0", "final").endswith("ball_0.nrrd")


def test_labels_of_many_clients_at_once_are_all_kept(open_studies):
    studies = open_studies()
    failed = []

    def client(number: int) -> None:
        try:
            for turn in range(4):
                studies.save_label(f"ball_{number}", label_of(studies, number), f"tag{turn}", {"turn": turn})
                studies.refresh()
                assert len(studies.list_images()) == 3
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    stored = json.loads(Path(studies._datastore_config_path).read_bytes())["objects"]
    assert {name: sorted(of["labels"]) for name, of in stored.items()} == {
        f"ball_{number}": ["tag0", "tag1", "tag2", "tag3"] for number in range(3)
    }


def test_images_and_labels_put_there_by_others_are_noticed_and_the_servers_own_files_cost_nothing(open_studies):
    studies = open_studies(auto_reload=True)
    seen, dispatch = [], studies._handler.dispatch
    studies._handler.dispatch = lambda event: (seen.append(event.src_path), dispatch(event))
    folder = Path(studies._datastore_path)

    def noticed(what) -> bool:
        until = time.monotonic() + 10
        while not what() and time.monotonic() < until:
            time.sleep(0.05)
        return bool(what())

    try:
        own = folder / ".cobot" / "incoming" / "image.nii.gz"
        own.parent.mkdir(parents=True)
        shutil.copy(folder / "ball_0.nii.gz", own)
        shutil.copy(folder / "ball_0.nii.gz", folder / "another.nii.gz")
        assert noticed(lambda: "another" in studies.list_images())
        shutil.copy(label_of(studies), folder / "labels" / "final" / "another.nii.gz")
        assert noticed(lambda: "another" in studies.get_labeled_images())
        assert not [path for path in seen if str(own.parent) in path]
    finally:
        studies._observer.stop()
        studies._observer.join()


def test_labelled_images_know_what_the_client_named(open_studies):
    from monai_cobot.label.studies import labelled_images

    studies = open_studies()
    studies.save_label("ball_1", label_of(studies, 1), "final", {"label_info": [{"name": "ball", "idx": 4}]})
    studies.save_label("ball_0", label_of(studies, 0), "final", {"label_info": "nonsense"})
    studies.save_label("ball_2", label_of(studies, 2), "original", {})
    found = labelled_images(studies)
    assert [(image.name, image.values) for image in found] == [("ball_0", {}), ("ball_1", {"ball": 4})]


def test_what_was_deleted_behind_the_servers_back_is_passed_over(open_studies):
    from monai_cobot.label.studies import labelled_images

    studies = open_studies()
    for number in (0, 1):
        studies.save_label(f"ball_{number}", label_of(studies, number), "final", {})
    Path(studies.get_image_uri("ball_0")).unlink()
    assert [image.name for image in labelled_images(studies)] == ["ball_1"]


def test_training_wants_two_labelled_images(open_studies, save_ball_adapter, tmp_path):
    from fastapi import HTTPException

    from monai_cobot.label.models import Models
    from monai_cobot.label.studies import labelled_images
    from monai_cobot.label.tasks import AdapterTraining

    save_ball_adapter(tmp_path / "adapters" / "ball")
    models = Models(tmp_path / "adapters", image_size=64, device="cpu")
    task = AdapterTraining("ball", models.names()["ball"], models, tmp_path / "train.json")
    studies = open_studies()
    studies.save_label("ball_0", label_of(studies), "final", {})
    with pytest.raises(HTTPException) as refused:
        task.orders({}, labelled_images(studies))
    assert refused.value.status_code == 422
    assert "at least two images; the server has 1" in refused.value.detail
    studies.save_label("ball_1", label_of(studies, 1), "final", {})
    orders = task.orders({"epochs": 3, "client_id": "me"}, labelled_images(studies))
    assert orders.labels == {"ball": 1}
    assert orders.options["epochs"] == 3
    assert orders.options["method"] == "lora"
