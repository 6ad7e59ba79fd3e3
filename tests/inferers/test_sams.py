import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import monai_cobot.inferers.adapters as adapters
import monai_cobot.inferers.sams as sams
from monai_cobot.inferers import SamCollection
from monai_cobot.networks import BackendError, build_sam
from monai_cobot.peft import adapt, save_adapter
from tests.inferers.conftest import SIZE

AdapterFolder = Callable[..., Path]


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """What was built, each time slowly enough for others to come in between."""
    calls: list[tuple] = []

    def build(*arguments):
        calls.append(arguments)
        threading.Event().wait(0.1)
        return build_sam(*arguments)

    monkeypatch.setattr(sams, "build_sam", build)
    return calls


def test_each_sam_and_each_adapter_is_built_once_however_many_threads_ask(adapter_folder: AdapterFolder, built):
    collection = SamCollection(device="cpu")
    folders = [adapter_folder("lora", seed) for seed in (1, 2)]
    ask = [lambda: collection.bare("vit_mini", SIZE), *(lambda f=folder: collection.load(f) for folder in folders)]
    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(lambda number: ask[number % 3](), range(12)))
    assert len(built) == 1
    assert len({id(model) for model in found}) == 3
    shared = {parameter.data_ptr() for parameter in found[0].network.sam.image_encoder.parameters()}
    for model in found[1:3]:
        assert len(shared & {parameter.data_ptr() for parameter in model.network.sam.image_encoder.parameters()}) > 50


def test_an_adapter_has_the_image_size_that_it_was_trained_at(adapter_folder: AdapterFolder, tmp_path: Path):
    collection = SamCollection(device="cpu")
    larger = save_adapter(adapt(build_sam("vit_mini", image_size=96), "lora"), tmp_path / "larger")
    assert collection.load(larger).network.sam.image_encoder.img_size == 96
    assert collection.load(adapter_folder()).network.sam.image_encoder.img_size == SIZE
    assert collection.bare("vit_mini").network.sam.image_encoder.img_size == 256


def test_a_variant_without_weights_is_not_there(adapter_folder: AdapterFolder, tmp_path: Path):
    collection = SamCollection(device="cpu")
    with pytest.raises(KeyError, match="vit_b"):
        collection.bare("vit_b")
    config = (folder := adapter_folder("bitfit")) / "adapter_config.json"
    config.write_text(config.read_text(encoding="utf-8").replace("vit_mini", "vit_b"), encoding="utf-8")
    with pytest.raises(KeyError, match="vit_b"):
        collection.load(folder)


def test_an_adapter_that_takes_long_to_convert_holds_up_no_other(adapter_folder: AdapterFolder, monkeypatch):
    collection = SamCollection(device="cpu")
    ready, slow, quick = adapter_folder("lora", 1), adapter_folder("lora", 2), adapter_folder("lora", 3)
    known = collection.load(ready)
    begun, go_on = threading.Event(), threading.Event()
    accelerate = adapters.accelerate

    def convert(network, backend, **options):
        if threading.current_thread().name == "slow":
            begun.set()
            assert go_on.wait(30)
        return accelerate(network, backend, **options)

    monkeypatch.setattr(adapters, "accelerate", convert)
    found = []
    converting = threading.Thread(target=lambda: found.append(collection.load(slow)), name="slow")
    converting.start()
    assert begun.wait(30)
    assert collection.load(ready) is known
    assert collection.load(quick).name == "lora_3"
    assert collection.bare("vit_mini", SIZE).name == "vit_mini"
    collection.forget(known)
    assert not found
    go_on.set()
    converting.join()
    assert found[0] is collection.load(slow)
    assert collection.load(ready) is not known


def test_a_sam_that_cannot_be_used_says_so_when_it_is_prepared(built, tmp_path: Path):
    SamCollection(device="cpu").prepare("vit_mini", SIZE)
    assert len(built) == 1
    (tmp_path / "weights.pth").write_bytes(b"no weights")
    with pytest.raises((ValueError, OSError), match=r"weights\.pth"):
        SamCollection({"vit_b": tmp_path / "weights.pth"}, "cpu").prepare("vit_b")
    with pytest.raises(ValueError, match="Unknown backend 'fast'"):
        SamCollection(device="cpu", backend="fast").prepare("vit_mini", SIZE)


def test_a_backend_that_is_not_installed_says_so_when_its_sam_is_prepared(monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else find(name))
    with pytest.raises(BackendError, match="is not installed"):
        SamCollection(device="cpu", backend="openvino").prepare("vit_mini", SIZE)
