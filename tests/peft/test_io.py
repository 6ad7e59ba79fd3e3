import json
import resource
import signal

import pytest
import torch
from safetensors.torch import load_file

from monai_cobot.networks import build_sam
from monai_cobot.peft import Adapter, AdapterError, adapt, load_adapter, read_adapter_config, save_adapter


@pytest.fixture
def saved(tmp_path, small_sam, image, trained):
    """A trained adapter in a folder, and what its SAM computes."""
    twin = build_sam("vit_mini", image_size=64)
    adapter = trained(adapt(twin, "adaptformer", orchestrate=True, bottleneck=8, decoder="lora"))
    folder = save_adapter(
        adapter, tmp_path / "adapter", preset="ct_abdomen", labels={"spleen": 2}, details={"dsc": 0.9}
    )
    return folder, twin.image_encoder(image)


def edit_config(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def test_a_saved_adapter_loads_to_the_same_output(saved, image):
    folder, expected = saved
    sam = build_sam("vit_mini", image_size=64)
    adapter = load_adapter(sam, folder)
    assert torch.equal(sam.image_encoder(image), expected)
    assert (adapter.method.name, adapter.decoder) == ("adaptformer", "lora")


def test_the_folder_says_what_the_adapter_belongs_to(saved):
    config = read_adapter_config(saved[0])
    assert (config.method, config.method_options["bottleneck"], config.variant) == ("adaptformer", 8, "vit_mini")
    assert (config.image_size, config.preset, config.labels) == (64, "ct_abdomen", {"spleen": 2})
    assert config.details == {"dsc": 0.9}
    assert len(config.base_sha256) == 64


def test_the_folder_holds_the_adapter_alone(saved):
    names = load_file(saved[0] / "adapter_model.safetensors").keys()
    assert not [name for name in names if "mlp.lin" in name and "adapter" not in name and "update" not in name]
    assert sum(file.stat().st_size for file in saved[0].iterdir()) < 1_000_000


def test_a_merged_adapter_is_saved_just_as_well(tmp_path, small_sam, image, trained):
    adapter = trained(adapt(small_sam, "lora", orchestrate=True))
    unmerged = save_adapter(adapter, tmp_path / "unmerged")
    adapter.merge()
    merged = save_adapter(adapter, tmp_path / "merged")
    assert (merged / "adapter_model.safetensors").read_bytes() == (unmerged / "adapter_model.safetensors").read_bytes()


def test_the_folder_says_cobots_options_in_full(saved):
    assert read_adapter_config(saved[0]).orchestration == {
        "relation": "learnable",
        "hypercomplex": "quaternion",
        "quaternion_init": "orthogonal",
        "coefficients": True,
    }


def test_details_that_json_does_not_know_are_a_clear_error(tmp_path, small_sam):
    with pytest.raises(AdapterError, match="kept as JSON: Object of type Tensor"):
        save_adapter(adapt(small_sam, "lora"), tmp_path / "adapter", details={"dsc": torch.tensor(0.9)})
    assert not (tmp_path / "adapter").exists()


def test_a_folded_adapter_loads_as_the_plain_method(tmp_path, small_sam, image, trained):
    base = build_sam("vit_mini", image_size=64)
    adapter = trained(adapt(base, "lora", orchestrate=True))
    expected = base.image_encoder(image)
    adapter.fold()
    folder = save_adapter(adapter, tmp_path / "folded")
    sam = build_sam("vit_mini", image_size=64)
    assert load_adapter(sam, folder).orchestration is None
    torch.testing.assert_close(sam.image_encoder(image), expected, rtol=1e-4, atol=1e-5)


def test_an_adapter_of_another_variant_is_refused(saved):
    edit_config(saved[0], variant="vit_b")
    sam = build_sam("vit_mini", image_size=64)
    with pytest.raises(AdapterError, match="variant is 'vit_b' there and 'vit_mini' here"):
        load_adapter(sam, saved[0])
    adapt(sam, "lora")


def test_an_adapter_for_another_image_size_is_refused(saved):
    with pytest.raises(AdapterError, match=r"image_size is 64 there and 128 here.*image_size=64"):
        load_adapter(build_sam("vit_mini", image_size=128), saved[0])


def test_an_adapter_of_other_base_weights_is_refused_and_the_sam_stays_as_it_was(saved, image):
    sam = build_sam("vit_mini", image_size=64)
    with torch.no_grad():
        sam.image_encoder.neck[0].weight += 1
    before = sam.image_encoder(image)
    with pytest.raises(AdapterError, match="trained on other weights of vit_mini: their SHA-256 begins with"):
        load_adapter(sam, saved[0])
    assert torch.equal(sam.image_encoder(image), before)
    assert not hasattr(sam, "adapted_with")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "prefix"}, "cannot be put into this SAM: Unknown method 'prefix'"),
        ({"method_options": None}, r"is no adapter configuration \(method_options is None\)"),
        ({"labels": {"a": "one"}}, "values are whole numbers"),
        ({"orchestration": None}, r"are not those that its configuration says: .*unexpected \['image_encoder.orch"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused_and_the_sam_stays_as_it_was(saved, changes, message):
    edit_config(saved[0], **changes)
    sam = build_sam("vit_mini", image_size=64)
    with pytest.raises(AdapterError, match=message):
        load_adapter(sam, saved[0])
    adapt(sam, "lora")


@pytest.mark.parametrize("failure", [torch.OutOfMemoryError("CUDA out of memory"), KeyboardInterrupt()])
def test_loading_that_is_cut_short_leaves_the_sam_as_it_was(saved, image, monkeypatch, failure):
    def cut_short(*_):
        raise failure

    sam = build_sam("vit_mini", image_size=64)
    before = sam.image_encoder(image)
    with monkeypatch.context() as patch:
        patch.setattr(Adapter, "load_state_dict", cut_short)
        with pytest.raises(type(failure)):
            load_adapter(sam, saved[0])
    assert torch.equal(sam.image_encoder(image), before)
    load_adapter(sam, saved[0])


def test_an_adapted_sam_takes_no_second_adapter(saved):
    sam = build_sam("vit_mini", image_size=64)
    adapt(sam, "lora")
    with pytest.raises(AdapterError, match="cannot be put into this SAM: This SAM is adapted already"):
        load_adapter(sam, saved[0])


def test_a_folder_without_an_adapter_is_a_clear_error(tmp_path):
    with pytest.raises(AdapterError, match=r"no adapter folder: adapter_config.json is missing"):
        read_adapter_config(tmp_path)


def test_a_truncated_weights_file_is_a_clear_error(saved):
    path = saved[0] / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(AdapterError, match="is damaged"):
        load_adapter(build_sam("vit_mini", image_size=64), saved[0])


def test_a_changed_weight_is_noticed(saved):
    path = saved[0] / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(AdapterError, match="SHA-256 differs"):
        load_adapter(build_sam("vit_mini", image_size=64), saved[0])


def test_a_configuration_that_is_no_text_is_a_clear_error(saved):
    (saved[0] / "adapter_config.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(AdapterError, match=r"adapter_config.json is no adapter configuration"):
        read_adapter_config(saved[0])


@pytest.mark.parametrize("text", ["", "[]", '{"method": "lora"}', '{"format": 99}'])
def test_a_configuration_that_is_none_is_a_clear_error(saved, text):
    (saved[0] / "adapter_config.json").write_text(text, encoding="utf-8")
    with pytest.raises(AdapterError, match=r"adapter_config.json (is no adapter configuration|has layout 99)"):
        read_adapter_config(saved[0])


def test_a_save_that_was_killed_between_the_two_files_still_loads(saved, image, small_sam, trained, tmp_path):
    folder, _ = saved
    old_config = (folder / "adapter_config.json").read_bytes()
    newer = build_sam("vit_mini", image_size=64)
    save_adapter(trained(adapt(newer, "lora", rank=8)), folder)
    (folder / "adapter_config.json").write_bytes(old_config)
    sam = build_sam("vit_mini", image_size=64)
    assert load_adapter(sam, folder).method.name == "lora"
    assert torch.equal(sam.image_encoder(image), newer.image_encoder(image))


def test_a_full_disk_is_a_clear_error_and_leaves_the_previous_adapter_whole(saved, trained, image):
    folder, expected = saved
    adapter = trained(adapt(build_sam("vit_mini", image_size=64), "lora"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(AdapterError, match=r"could not be saved .*Free some space"):
            save_adapter(adapter, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)
    assert sorted(file.name for file in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    sam = build_sam("vit_mini", image_size=64)
    load_adapter(sam, folder)
    assert torch.equal(sam.image_encoder(image), expected)
