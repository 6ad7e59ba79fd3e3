"""What MONAI Label calls, without a server."""

import asyncio
import threading
import time
from pathlib import Path

import pytest
import torch

from monai_cobot.inferers import CancelToken, EmbeddingCache
from monai_cobot.label.models import Models
from monai_cobot.label.server import accept_pydicom_3


class _Images:
    """A datastore of images without labels."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get_unlabeled_images(self, *_: object) -> list[str]:
        return [path.name for path in self.folder.glob("*.nii.gz")]

    def get_image_uri(self, name: str) -> str:
        return str(self.folder / name)


@pytest.fixture
def choose(monailabel, balls, tmp_path: Path):
    """Chooses what to label next."""
    from monai_cobot.label.tasks import UncertaintyStrategy

    models = Models(tmp_path / "adapters", image_size=64, device="cpu")
    strategy, images = UncertaintyStrategy(models, EmbeddingCache()), _Images(balls(tmp_path / "studies"))
    return lambda: strategy({}, images)


def test_the_next_image_comes_also_where_all_were_asked_for_within_the_second(monailabel, balls, tmp_path, monkeypatch):
    from monai_cobot.label.tasks import RandomStrategy

    images = _Images(balls(tmp_path / "studies"))
    monkeypatch.setattr(time, "time", lambda: 1e9)
    images.get_image_info = lambda name: {"strategy": {"random": {"ts": int(1e9)}}}
    assert RandomStrategy()({"strategy": "random"}, images)["id"] in images.get_unlabeled_images()


def test_choosing_what_to_label_next_ends_where_its_client_is_gone(choose):
    from fastapi import HTTPException

    from monai_cobot.label.tasks import CANCEL

    token = CancelToken()
    token.cancel()
    before = CANCEL.set(token)
    with pytest.raises(HTTPException) as ended:
        choose()
    CANCEL.reset(before)
    assert ended.value.status_code == 499
    assert choose()["id"].startswith("ball_")


def test_a_series_that_cannot_be_fetched_or_read_costs_the_others_no_place_in_what_to_label_next(
    choose, tmp_path, monkeypatch, caplog
):
    from fastapi import HTTPException

    (tmp_path / "studies" / "no_image.nii.gz").write_bytes(b"no image")
    alone = choose()
    assert alone["id"].startswith("ball_")

    def fetch(images: _Images, name: str) -> str:
        if name in broken:
            raise HTTPException(502, "the DICOM server does not send it")
        return str(images.folder / name)

    monkeypatch.setattr(_Images, "get_image_uri", fetch)
    broken = sorted({f"ball_{number}.nii.gz" for number in range(3)} - {alone["id"]})
    caplog.clear()
    assert choose() == alone
    assert all(any(name in line and "does not send it" in line for line in caplog.messages) for name in broken)
    assert any("no_image.nii.gz is passed over" in line for line in caplog.messages)

    broken.append(alone["id"])
    with pytest.raises(HTTPException, match="does not send it"):
        choose()


def test_choosing_what_to_label_next_waits_for_those_who_wait_for_a_mask(choose):
    from monai_cobot.label.tasks import _answering

    found = []
    choosing = threading.Thread(target=lambda: found.append(choose()))
    with _answering.someone():
        choosing.start()
        time.sleep(1)
        assert choosing.is_alive()
        assert not found
    choosing.join(60)
    assert found[0]["id"].startswith("ball_")


def test_however_many_wait_for_their_masks_all_else_is_answered(monailabel):
    accept_pydicom_3()
    from fastapi.concurrency import run_in_threadpool

    from monai_cobot.label.endpoints import _while_listening

    go_on = threading.Event()

    class Client:
        async def is_disconnected(self) -> bool:
            return False

    async def ask() -> str:
        waiting = [asyncio.create_task(_while_listening(Client(), go_on.wait, 60)) for _ in range(60)]
        await asyncio.sleep(0.5)  # all threads for masks are in use
        try:
            return await asyncio.wait_for(run_in_threadpool(lambda: "here I am"), 20)
        finally:
            go_on.set()
            await asyncio.gather(*waiting)

    assert asyncio.run(ask()) == "here I am"


def test_someone_waits_for_a_mask_as_long_as_it_is_made(monailabel, balls, tmp_path, monkeypatch):
    import monai_cobot.label.tasks as module
    from monai_cobot.label.volumes import OpenVolumes

    models = Models(tmp_path / "adapters", image_size=64, device="cpu")
    task = module.AdapterInference("vit_mini", None, models, OpenVolumes(EmbeddingCache(), look_ahead=False))
    during = []
    segment = module.segment_prompt

    def watched(*arguments):
        during.append(module._answering.wait_for_nobody(0))
        segment(*arguments)

    monkeypatch.setattr(module, "segment_prompt", watched)
    path = balls(tmp_path / "studies") / "ball_0.nii.gz"
    file, _ = task({"image": str(path), "slice": 6, "box": [4, 9, 21, 22]})
    Path(file).unlink()
    assert during == [False]
    assert module._answering.wait_for_nobody(0)


@pytest.mark.parametrize(
    ("error", "status"), [(torch.OutOfMemoryError("CUDA out of memory"), 500), (ValueError("of another SAM"), 422)]
)
def test_a_model_that_cannot_be_loaded_is_told_with_the_reason(monailabel, tmp_path, monkeypatch, error, status):
    from fastapi import HTTPException

    from monai_cobot.label.tasks import load_model

    models = Models(tmp_path / "adapters", image_size=64, device="cpu")

    def fail(name: str):
        raise error

    monkeypatch.setattr(models, "load", fail)
    with pytest.raises(HTTPException, match=str(error)) as refused:
        load_model(models, "vit_mini")
    assert refused.value.status_code == status


def test_clients_are_shown_the_bundles_usual_values_of_a_training(monailabel, tmp_path, repository):
    from monai.bundle import ConfigParser

    from monai_cobot.label.tasks import AdapterTraining

    config = repository / "bundles" / "cobot_sam" / "configs" / "train.json"
    bundle = ConfigParser(ConfigParser.load_config_file(str(config)))
    bundle["dataset"] = "of the server"
    shown = AdapterTraining("ball", None, Models(tmp_path, image_size=64, device="cpu"), config).config()
    assert shown == {name: bundle.get_parsed_content(name) for name in shown}
    assert {"epochs", "batch_size"} <= set(shown)
