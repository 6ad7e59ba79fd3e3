"""The image encoder: a forward pass and a LoRA training step, against what a user would pick instead."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.rivals import normalised_image, openvino_encoder, our_sam, stock_sam, transformers_encoder
from benchmarks.timing import Row, Setting, Work, row, time_in_turns
from monai_cobot.networks import PromptableSam, set_gradient_checkpointing
from monai_cobot.networks._segment_anything import Sam
from monai_cobot.networks.backends import accelerate
from monai_cobot.peft import adapt

FLOOR = "the machine's floor"


def forward(setting: Setting) -> list[Row]:
    """Every rival over ours, and ours over the floor: its matrix products at the rate of a large one in this run."""
    with tempfile.TemporaryDirectory() as folder:  # for converted models
        return _forward(setting, folder)


def _forward(setting: Setting, folder: str) -> list[Row]:
    image = normalised_image(setting)
    pixels = torch.rand_like(image)
    stock = stock_sam(setting).image_encoder
    eager = PromptableSam(our_sam(setting), setting.precision).eval()
    ours: dict[str, Work] = {"ours, eager": partial(eager.encode, pixels)}
    for backend in ("compile", "openvino") if setting.device.type == "cpu" else ("compile",):
        network = accelerate(PromptableSam(our_sam(setting), setting.precision), backend, folder)
        ours[f"ours, {backend}"] = partial(network.encode, pixels)
    rivals = {"segment_anything": stock, "transformers, sdpa": transformers_encoder(setting)}
    if setting.device.type == "cpu":
        rivals["OpenVINO on segment_anything"] = openvino_encoder(setting)
    matrix = torch.randn(2048, 2048, device=setting.device, dtype=setting.dtype)
    others: dict[str, Work] = {name: partial(encoder, image) for name, encoder in rivals.items()}

    task = f"encoder forward, {setting.variant} {setting.image_size}"
    with torch.inference_mode(), setting.autocast():
        seconds = time_in_turns(task, {**others, **ours, FLOOR: lambda: matrix @ matrix}, setting)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        stock(image)
    factor = counter.get_total_flops() / (2 * 2048**3)
    seconds[FLOOR] = [value * factor for value in seconds[FLOOR]]
    best = min(ours, key=lambda name: statistics.median(seconds[name]))
    return [
        *(row(task, seconds, "segment_anything", name) for name in ours),
        *(row(task, seconds, rival, best) for rival in others if rival != "segment_anything"),
        row(task, seconds, best, FLOOR),
    ]


def training_step(setting: Setting) -> list[Row]:
    """A LoRA step, forward, backward and Adam: stock over ours, without and with gradient checkpointing."""
    checkpointed = our_sam(setting)
    set_gradient_checkpointing(checkpointed, True)
    contenders = {
        "segment_anything": lora_step(stock_sam(setting), setting),
        "ours": lora_step(our_sam(setting), setting),
        "ours, gradient checkpointing": lora_step(checkpointed, setting),
    }
    task = f"encoder LoRA training step, {setting.variant} {setting.image_size}"
    seconds = time_in_turns(task, contenders, setting)
    return [row(task, seconds, "segment_anything", name) for name in list(contenders)[1:]]


def lora_step(sam: Sam, setting: Setting) -> Callable[[], None]:
    """A step of rank-4 LoRA on q and v of all blocks, on one image."""
    return training_step_of(sam, setting, "lora", orchestrate=False)


def training_step_of(sam: Sam, setting: Setting, method: str, orchestrate: bool) -> Callable[[], None]:
    """A training step of the encoder with a method's adapters, which are put into the SAM."""
    adapter = adapt(sam, method, orchestrate=orchestrate, decoder="frozen")
    optimizer = torch.optim.Adam(adapter.parameter_groups(1e-6))
    encoder = sam.image_encoder.train()
    image = normalised_image(setting)

    def step() -> None:
        optimizer.zero_grad()
        with setting.autocast():
            embedding = encoder(image)
        embedding.float().square().mean().backward()
        optimizer.step()

    return step
