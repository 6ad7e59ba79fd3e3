import gc
import json
import shutil
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from monai_cobot.inferers import AdapterShelf
from monai_cobot.networks import PromptableSam, build_sam
from monai_cobot.peft import AdapterError, adapt, load_adapter, save_adapter
from tests.inferers.conftest import SIZE

AdapterFolder = Callable[..., Path]


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(1, 1, 40, SIZE, generator=torch.Generator().manual_seed(4))


def alone(folder: Path, image: torch.Tensor) -> torch.Tensor:
    sam = build_sam("vit_mini", image_size=SIZE)
    load_adapter(sam, folder)
    with torch.no_grad():
        return PromptableSam(sam)(image)


@torch.no_grad()
def test_adapters_side_by_side_compute_what_each_does_alone_and_leave_the_sam_as_it_is(
    adapter_folder: AdapterFolder, image: torch.Tensor
) -> None:
    shelf = AdapterShelf(build_sam("vit_mini", image_size=SIZE))
    before = shelf.base.network(image)
    folders = [adapter_folder("lora", 1, orchestrate=True), adapter_folder("adaptformer", 2), adapter_folder("lora", 3)]
    models = [shelf.load(folder) for folder in folders]
    for folder, model in zip(folders, models, strict=True):
        assert torch.allclose(model.network(image), alone(folder, image), atol=1e-4)
    assert not torch.allclose(models[0].network(image), models[2].network(image), atol=1e-2)
    assert torch.equal(shelf.base.network(image), before)


def test_an_adapter_shares_the_memory_of_the_frozen_sam(adapter_folder: AdapterFolder) -> None:
    shelf = AdapterShelf(build_sam("vit_mini", image_size=SIZE))
    base = {parameter.data_ptr() for parameter in shelf.base.network.parameters()}
    model = shelf.load(adapter_folder("lora", decoder="frozen"))
    own = [p for p in model.network.parameters() if p.data_ptr() not in base]
    assert 0 < sum(p.numel() for p in own) < 30_000  # of 4.8 million


@torch.no_grad()
def test_what_is_cast_of_the_frozen_sam_is_shared_too(
    adapter_folder: AdapterFolder, image: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monai_cobot.networks.promptable.WORTH_HOLDING", 0)
    shelf = AdapterShelf(build_sam("vit_mini", image_size=SIZE), precision="bfloat16")
    casts = []
    for model in (shelf.base, shelf.load(adapter_folder("lora", 1)), shelf.load(adapter_folder("adaptformer", 2))):
        model.network(image)
        held = model.network.held_weights
        assert held is not None
        casts.append((held, held.cast(model.network.sam.image_encoder.neck[0].weight, torch.bfloat16)))
    assert len({id(held) for held, _ in casts}) == 1
    assert len({id(cast) for _, cast in casts}) == 1


@torch.no_grad()
def test_an_encoder_runs_in_the_backend_that_was_asked_for(
    adapter_folder: AdapterFolder, image: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino", reason='needs the extra "openvino"')
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_: tmp_path)
    folder = adapter_folder("lora", 1, orchestrate=True)
    expected = AdapterShelf(build_sam("vit_mini", image_size=SIZE)).load(folder).network(image)
    model = AdapterShelf(build_sam("vit_mini", image_size=SIZE), backend="openvino").load(folder)
    assert model.network.choice.name == "openvino"
    assert torch.allclose(model.network(image), expected, atol=1e-3)
    with pytest.raises(ValueError, match="expected one of auto, eager"):
        AdapterShelf(build_sam("vit_mini", image_size=SIZE), backend="fast")


@torch.no_grad()
def test_adapters_that_leave_the_encoder_alone_share_one_that_was_compiled(
    adapter_folder: AdapterFolder, image: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    openvino = pytest.importorskip("openvino", reason='needs the extra "openvino"')
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_: tmp_path)
    compiled, compile_model = [], openvino.Core.compile_model

    def count(core: object, *arguments: object) -> object:
        compiled.append(arguments[1])
        return compile_model(core, *arguments)

    monkeypatch.setattr(openvino.Core, "compile_model", count)
    shelf = AdapterShelf(build_sam("vit_mini", image_size=SIZE), backend="openvino")
    folders = [adapter_folder("decoder_only", seed) for seed in (1, 2)]
    models = [shelf.load(folder) for folder in folders]
    assert compiled == ["CPU"]
    for folder, model in zip(folders, models, strict=True):
        assert torch.allclose(model.network(image), alone(folder, image), atol=1e-3)
    assert not torch.allclose(models[0].network(image), models[1].network(image), atol=1e-2)
    shelf.forget(models.pop(0))
    assert shelf.base.network.choice.name == "openvino"
    assert compiled == ["CPU"], "the other still has it"
    shelf.load(adapter_folder("lora", 1))
    assert compiled == ["CPU", "CPU"], "which changes the encoder"


@torch.no_grad()
def test_adapters_can_be_used_from_several_threads_at_once(adapter_folder: AdapterFolder, image: torch.Tensor) -> None:
    shelf = AdapterShelf(build_sam("vit_mini", image_size=SIZE))
    models = [shelf.load(adapter_folder("lora", seed, orchestrate=True)) for seed in (1, 2)]
    expected = [model.network(image) for model in models]

    @torch.no_grad()
    def work(number: int) -> bool:
        return torch.equal(models[number % 2].network(image), expected[number % 2])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(12)))


def test_a_loaded_adapter_is_kept_and_loaded_anew_only_where_its_files_changed(
    adapter_folder: AdapterFolder, tmp_path: Path
) -> None:
    shelf = AdapterShelf(build_sam("vit_mini", image_size=SIZE))
    folder = shutil.copytree(adapter_folder("lora", 1), tmp_path / "mine")
    first = shelf.load(folder)
    assert shelf.load(folder) is first
    assert (first.name, first.preset, first.axis, dict(first.labels)) == (
        "mine",
        "window:-100,200",
        "coronal",
        {"ball": 1},
    )
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    (folder / "adapter_config.json").write_text(json.dumps(config | {"preset": "mr"}), encoding="utf-8")
    second = shelf.load(folder)
    assert second.preset == "mr"
    shutil.copytree(adapter_folder("lora", 2), folder, dirs_exist_ok=True)
    third = shelf.load(folder)
    assert third.embedding_source != second.embedding_source
    forgotten = weakref.ref(second)
    del second
    gc.collect()
    assert forgotten() is None  # what has been replaced keeps no memory


@pytest.mark.parametrize(
    ("method", "option", "value"),
    [("adaptformer", "scale", 0.2), ("conv_lora", "multiply_by_gate", False), ("sam_adapter", "mask_ratio", 0.5)],
)
def test_an_adapter_with_an_edited_option_is_not_answered_with_the_embeddings_of_before(
    adapter_folder: AdapterFolder, tmp_path: Path, method: str, option: str, value: object
) -> None:
    before = adapter_folder(method, 1)
    same, edited = (shutil.copytree(before, tmp_path / name) for name in ("same", "edited"))
    config = json.loads((edited / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["method_options"][option] != value
    config["method_options"][option] = value
    (edited / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    shelf = AdapterShelf(build_sam("vit_mini", image_size=SIZE))
    source = shelf.load(before).embedding_source
    assert shelf.load(same).embedding_source == source
    assert shelf.load(edited).embedding_source != source


def test_an_adapter_that_takes_no_prompts_is_refused_with_what_to_use(tmp_path: Path) -> None:
    adapter = adapt(build_sam("vit_mini", image_size=SIZE), "bitfit", decoder="frozen", classes=2)
    save_adapter(adapter, tmp_path, labels={"a": 1, "b": 2})
    with pytest.raises(AdapterError, match=r"segments classes without prompts.*inference\.json"):
        AdapterShelf(build_sam("vit_mini", image_size=SIZE)).load(tmp_path)


def test_embeddings_are_shared_by_adapters_that_leave_the_encoder_alone(adapter_folder: AdapterFolder) -> None:
    shelf = AdapterShelf(build_sam("vit_mini", image_size=SIZE))
    decoder_only, lora = shelf.load(adapter_folder("decoder_only")), shelf.load(adapter_folder("lora"))
    assert decoder_only.embedding_source == shelf.base.embedding_source != lora.embedding_source


def test_a_sam_that_is_adapted_already_and_adapters_of_other_sams_are_refused(adapter_folder: AdapterFolder) -> None:
    sam = build_sam("vit_mini", image_size=SIZE)
    adapt(sam, "lora")
    with pytest.raises(ValueError, match="give the bare SAM"):
        AdapterShelf(sam)
    with pytest.raises(AdapterError, match="image_size is 64 there and 128 here"):
        AdapterShelf(build_sam("vit_mini", image_size=128)).load(adapter_folder("lora"))
