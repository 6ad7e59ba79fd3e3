import logging
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from monai.transforms import (
    Compose,
    GaussianSmoothd,
    Lambdad,
    MedianSmoothd,
    OneOf,
    RandFlipd,
    RandGaussianNoise,
    RandomOrder,
    RandScaleIntensityd,
    SomeOf,
)
from torch import Tensor, nn

from monai_cobot.data import FeatureCache, image_digest
from monai_cobot.inferers import FrozenFeatureInferer, open_feature_cache
from monai_cobot.networks import PromptableSam, build_sam
from monai_cobot.peft import Adapter, adapt
from monai_cobot.transforms import RandJitterBoxd, ResizeLongestSided

BOXES = torch.tensor([[5.0, 5, 40, 30], [0, 10, 60, 50], [20, 20, 44, 60]])
SMOOTHINGS = [GaussianSmoothd("image", sigma=1.0), MedianSmoothd("image", radius=1)]
RECIPE = Compose([ResizeLongestSided(64), RandJitterBoxd(max_jitter=5)])


def brighten(sample: dict) -> dict:
    return sample | {"image": sample["image"] + torch.rand(1)}


def images(count: int = 3) -> Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def adapted(method: str, precision: str = "float32", **options: object) -> tuple[PromptableSam, Adapter]:
    torch.manual_seed(0)
    adapter = adapt(build_sam("vit_mini", image_size=64), method, **options)  # type: ignore[arg-type]
    return PromptableSam(adapter.sam, precision), adapter


def opened(network: PromptableSam, adapter: Adapter, folder: Path, transform: object = RECIPE) -> FeatureCache | None:
    return open_feature_cache(network, adapter.base_sha256, transform, folder, 1.0)  # type: ignore[arg-type]


def train(network: PromptableSam, adapter: Adapter, cache: FeatureCache | None) -> tuple[list[float], int]:
    """Losses of three epochs over the images in other orders and batches, and how many images went into the encoder."""
    inferer = FrozenFeatureInferer(network, cache)
    optimizer = torch.optim.Adam(adapter.parameter_groups(1e-3))
    encoded = []
    network.sam.image_encoder.patch_embed.register_forward_pre_hook(lambda _, args: encoded.append(len(args[0])))
    losses = []
    torch.manual_seed(1)
    network.train()
    for batches in ([[0, 1], [2]], [[2, 0], [1]], [[1, 2, 0]]):
        for batch in batches:
            image = images()[batch]
            logits = inferer(image, network, BOXES[batch], [image_digest(one) for one in image])
            loss = (logits.sigmoid() - 0.5).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses, sum(encoded)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("decoder_only", {}),
        ("lora", {"blocks": 2, "orchestrate": True}),
        ("adaptformer", {"blocks": 1, "orchestrate": True}),
    ],
)
def test_training_is_the_same_and_each_image_is_encoded_once(tmp_path: Path, method: str, options: dict) -> None:
    network, adapter = adapted(method, **options)
    expected, encoded = train(network, adapter, None)
    assert encoded == 9
    network, adapter = adapted(method, **options)
    losses, encoded = train(network, adapter, opened(network, adapter, tmp_path))
    assert encoded == 3
    assert losses == pytest.approx(expected, rel=1e-5)
    # a training that finds the features is the one that made them, bit for bit
    network, adapter = adapted(method, **options)
    again, encoded = train(network, adapter, opened(network, adapter, tmp_path))
    assert encoded == 0
    assert again == losses


@pytest.mark.parametrize(("method", "options"), [("decoder_only", {}), ("lora", {"blocks": 2})])
def test_what_bfloat16_computes_is_kept_exactly(tmp_path: Path, method: str, options: dict) -> None:
    network, adapter = adapted(method, "bfloat16", **options)
    cache = opened(network, adapter, tmp_path)
    assert cache is not None
    _, encoded = train(network, adapter, cache)
    assert encoded == 3
    inferer = FrozenFeatureInferer(network, cache)
    for image in images():
        kept, computed = cache.get(image_digest(image)), network.encode_frozen(image[None], inferer.depth).values[0]
        assert kept is not None
        assert torch.equal(kept, computed)
        assert not torch.equal(kept, kept.bfloat16().float())


def test_half_of_the_disk_is_taken_where_that_is_asked_for(tmp_path: Path) -> None:
    sizes = []
    for dtype in ("float32", "bfloat16"):
        network, adapter = adapted("decoder_only")
        cache = open_feature_cache(network, adapter.base_sha256, RECIPE, tmp_path / dtype, 1.0, dtype=dtype)
        train(network, adapter, cache)
        sizes.append(sum(path.stat().st_size for path in (tmp_path / dtype).rglob("*.safetensors")))
    assert sizes[1] == pytest.approx(sizes[0] / 2, rel=0.01)
    with pytest.raises(ValueError, match="float32 or bfloat16, not as 'int8'"):
        open_feature_cache(network, adapter.base_sha256, RECIPE, tmp_path, 1.0, dtype="int8")


def test_images_without_digests_are_refused(tmp_path: Path) -> None:
    network, adapter = adapted("decoder_only")
    inferer = FrozenFeatureInferer(network, opened(network, adapter, tmp_path))
    with pytest.raises(ValueError, match="got 0: let the data set add them"):
        inferer(images(), network, BOXES)


def test_a_damaged_entry_is_computed_again(tmp_path: Path) -> None:
    network, adapter = adapted("decoder_only")
    inferer = FrozenFeatureInferer(network, opened(network, adapter, tmp_path))
    digests = [image_digest(one) for one in images()]
    with torch.no_grad():
        expected = inferer(images(), network, BOXES, digests)
        path = next(tmp_path.rglob("*.safetensors"))
        path.write_bytes(path.read_bytes()[:-8])
        assert torch.equal(inferer(images(), network, BOXES, digests), expected)


@pytest.mark.parametrize(
    "change",
    [{"image_size": 128}, {"method": "lora", "blocks": 1}, {"precision": "bfloat16"}, {"weights": True}],
)
def test_features_of_another_size_depth_precision_or_of_other_weights_are_others(tmp_path: Path, change: dict) -> None:
    sources = []
    for changes in ({}, change):
        sam = build_sam("vit_mini", image_size=changes.get("image_size", 64))
        if "weights" in changes:
            with torch.no_grad():
                sam.image_encoder.neck[0].weight.add_(1e-3)
        options = {"blocks": changes["blocks"]} if "blocks" in changes else {}
        adapter = adapt(sam, changes.get("method", "decoder_only"), **options)
        cache = opened(PromptableSam(sam, changes.get("precision", "float32")), adapter, tmp_path)
        assert cache is not None
        sources.append(cache.source)
    assert sources[0] != sources[1]


@pytest.mark.parametrize("package", ["monai_cobot", "torch"])
def test_features_of_another_release_are_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    network, adapter = adapted("decoder_only")
    cache = opened(network, adapter, tmp_path)
    assert cache is not None
    cache.put(image_digest(images()[0]), torch.zeros(4))

    def another(name: str) -> str:
        return "99.0" if name == package else version(name)

    monkeypatch.setattr("monai_cobot.data.feature_cache.version", another)
    later = opened(network, adapter, tmp_path)
    assert later is not None
    assert later.get(image_digest(images()[0])) is None
    assert cache.get(image_digest(images()[0])) is not None


def test_it_is_on_where_it_is_exact_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert opened(*adapted("decoder_only"), tmp_path) is not None
        assert opened(*adapted("lora", blocks=3), tmp_path) is not None
    assert [record.getMessage().split(": ")[1] for record in caplog.records] == [
        "the image encoder.",
        "the first 5 of 8 blocks.",
    ]
    assert not list(tmp_path.iterdir())


def test_it_is_off_where_the_first_block_is_trained_and_where_nothing_may_be_kept(tmp_path: Path) -> None:
    assert opened(*adapted("lora"), tmp_path) is None
    network, adapter = adapted("decoder_only")
    assert open_feature_cache(network, adapter.base_sha256, RECIPE, tmp_path, 0) is None


@pytest.mark.parametrize(
    "augmentation",
    [
        RandFlipd(keys=["image", "label"], prob=0.5),
        Compose([RandScaleIntensityd(keys="image", factors=0.1)]),
        *(chosen(SMOOTHINGS) for chosen in (OneOf, SomeOf, RandomOrder)),
        Lambdad(keys="image", func=lambda image: image + torch.rand(1)),
        brighten,
        RandGaussianNoise(),
    ],
)
def test_it_is_off_under_image_augmentation_and_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, augmentation: object
) -> None:
    transform = Compose([ResizeLongestSided(64), augmentation, RandJitterBoxd(max_jitter=5)])
    with caplog.at_level(logging.INFO):
        assert opened(*adapted("decoder_only"), tmp_path, transform) is None
    assert "may change images" in caplog.text
    assert "RandJitterBoxd" not in caplog.text


def test_without_a_cache_the_network_runs_as_it_is() -> None:
    network, _ = adapted("decoder_only")
    with torch.no_grad():
        assert torch.equal(FrozenFeatureInferer(network, None)(images(), network, BOXES), network(images(), BOXES))


def test_a_wrapped_network_gets_the_features_through_its_wrapper(tmp_path: Path) -> None:
    network, adapter = adapted("decoder_only")

    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = network
            self.calls = 0

        def forward(self, *inputs: object) -> Tensor:
            self.calls += 1
            return self.module(*inputs)

    wrapper = Wrapper()
    digests = [image_digest(one) for one in images()]
    FrozenFeatureInferer(network, opened(network, adapter, tmp_path))(images(), wrapper, BOXES, digests)
    assert wrapper.calls == 1
