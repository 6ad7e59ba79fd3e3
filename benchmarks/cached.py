"""An epoch of ``decoder_only`` whose image features are computed anew, over one that finds them in the cache."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from benchmarks.rivals import our_sam
from benchmarks.timing import Row, Setting, Work, row, time_in_turns
from monai_cobot.data import FeatureCache
from monai_cobot.inferers import FrozenFeatureInferer
from monai_cobot.networks import PromptableSam
from monai_cobot.peft import adapt

IMAGES = 2


def cached_epoch(setting: Setting) -> list[Row]:
    """Every image with one box: features, decoder, backward and Adam. The uncounted first round fills the cache."""
    with tempfile.TemporaryDirectory() as folder:
        cache = FeatureCache(Path(folder), "benchmark")
        epochs = {"features computed anew": _epoch(setting, None), "features from the cache": _epoch(setting, cache)}
        task = f"decoder_only epoch of {IMAGES} images, {setting.variant} {setting.image_size}"
        return [row(task, time_in_turns(task, epochs, setting), *epochs, at_least=20.0)]


def _epoch(setting: Setting, cache: FeatureCache | None) -> Work:
    sam = our_sam(setting)
    adapter = adapt(sam, "decoder_only")
    network = PromptableSam(sam, setting.precision).train()
    inferer = FrozenFeatureInferer(network, cache)
    optimizer = torch.optim.Adam(adapter.parameter_groups(1e-6))
    size = setting.image_size
    images = torch.rand(IMAGES, 1, 1, size, size, device=setting.device)
    box = torch.tensor([[0.25, 0.25, 0.75, 0.75]], device=setting.device) * size

    def epoch() -> None:
        for number, image in enumerate(images):
            optimizer.zero_grad()
            inferer(image, network, box, [f"image {number}"]).square().mean().backward()
            optimizer.step()

    return epoch
