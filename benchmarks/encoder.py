"""The image encoder: a forward pass and a LoRA training step, against what a user would pick instead."""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.goals import goal
from benchmarks.rivals import normalised_image, openvino_encoder, our_sam, stock_sam, transformers_encoder
from benchmarks.timing import Row, Setting, Work, row, time_in_turns
from monai_cobot.networks import PromptableSam, set_gradient_checkpointing
from monai_cobot.networks._segment_anything import ImageEncoderViT, Sam
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
    rivals = setting.in_both_precisions("segment_anything", lambda under: under.inference(partial(stock, image)))
    released, *_ = rivals
    rivals["transformers, sdpa"] = setting.inference(partial(transformers_encoder(setting), image))
    if setting.precision != "float32":  # as its users load it
        whole = transformers_encoder(setting).to(setting.dtype)
        rivals[f"transformers, sdpa, all in {setting.precision}"] = partial(whole, image.to(setting.dtype))
    if setting.device.type == "cpu":
        rivals["OpenVINO on segment_anything"] = partial(openvino_encoder(setting), image)
    matrix = torch.randn(2048, 2048, device=setting.device, dtype=setting.dtype)

    task = f"encoder forward, {setting.variant} {setting.image_size}"
    with torch.inference_mode():
        contenders = {**rivals, **ours, FLOOR: lambda: matrix @ matrix}
        seconds = time_in_turns(task, contenders, setting)
    with torch.no_grad():
        _reach_floor(seconds, _products(stock, partial(stock, image), passes=1))
    best = min(ours, key=lambda name: statistics.median(seconds[name]))
    asked = {name: goal(setting, "eager forward") for name in ours if name == "ours, eager"}
    asked[best] = goal(setting, "best forward")
    not_slower = {"OpenVINO on segment_anything": 1.0} if goal(setting, "best forward") else {}
    return [
        *(row(task, seconds, released, name, at_least=asked.get(name)) for name in ours),
        *(row(task, seconds, rival, best, at_least=not_slower.get(rival)) for rival in rivals if rival != released),
        row(task, seconds, best, FLOOR),
    ]


def _reach_floor(seconds: dict[str, list[float]], products: float) -> None:
    """Turn the times of the one matrix product into those of so many multiplications."""
    seconds[FLOOR] = [value * products / 2048**3 for value in seconds[FLOOR]]


def _products(stock: ImageEncoderViT, work: Work, passes: int) -> float:
    """Multiplications of work's matrix products, without those of the padding of windows, which goes through the
    weights so many times."""
    with FlopCounterMode(display=False) as counter:
        work()
    padding = 0.0
    tokens = (stock.img_size // stock.patch_embed.proj.kernel_size[0]) ** 2
    for block in stock.blocks:
        if block.window_size:
            side = math.ceil(math.sqrt(tokens) / block.window_size) * block.window_size
            weights = block.attn.qkv.weight.numel() + block.attn.proj.weight.numel()
            padding += (side**2 - tokens) * weights
    return counter.get_total_flops() / 2 - passes * padding


def training_step(setting: Setting) -> list[Row]:
    """A LoRA step, forward, backward and Adam: the rivals over ours, stock over ours with checkpointing, and ours over
    the floor."""
    checkpointed, stock = our_sam(setting), stock_sam(setting)
    matrix = torch.randn(2048, 2048, device=setting.device, dtype=setting.dtype)
    set_gradient_checkpointing(checkpointed, True)
    rivals = setting.in_both_precisions("segment_anything", lambda under: lora_step(stock_sam(under), under))
    released, *_ = rivals
    rivals["transformers with peft"] = transformers_lora_step(setting)
    ours = {
        "ours": lora_step(our_sam(setting), setting),
        "ours, gradient checkpointing": lora_step(checkpointed, setting),
    }
    task = f"encoder LoRA training step, {setting.variant} {setting.image_size}"
    seconds = time_in_turns(task, {**rivals, **ours, FLOOR: lambda: matrix @ matrix}, setting)
    counted = lora_step(stock, replace(setting, precision="float32"))
    _reach_floor(seconds, _products(stock.image_encoder, counted, passes=2))
    return [
        row(task, seconds, released, "ours", at_least=goal(setting, "training step")),
        *(row(task, seconds, rival, "ours") for rival in rivals if rival != released),
        row(task, seconds, released, "ours, gradient checkpointing"),
        row(task, seconds, "ours", FLOOR),
    ]


def lora_step(sam: Sam, setting: Setting) -> Callable[[], None]:
    """A step of rank-4 LoRA on q and v of all blocks, on one image."""
    return training_step_of(sam, setting, "lora", orchestrate=False)


def training_step_of(sam: Sam, setting: Setting, method: str, orchestrate: bool) -> Callable[[], None]:
    """A training step of the encoder with a method's adapters, which are put into the SAM."""
    adapter = adapt(sam, method, orchestrate=orchestrate, decoder="frozen")
    optimizer = torch.optim.Adam(adapter.parameter_groups(1e-6))
    is_ours = type(sam.image_encoder) is not ImageEncoderViT
    context = setting.as_ours() if is_ours else setting.autocast
    return _step(sam.image_encoder.train(), optimizer, setting, context)


def transformers_lora_step(setting: Setting) -> Callable[[], None]:
    """The same step by Hugging Face's encoder with LoRA by its ``peft``, on the joint weights of q, k and v."""
    encoder = inject_adapter_in_model(LoraConfig(r=4, target_modules=["qkv"]), transformers_encoder(setting)).train()
    trained = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, 1e-6)
    return _step(lambda image: encoder(image).last_hidden_state, optimizer, setting, setting.autocast)


def _step(
    encoder: Callable[[Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    setting: Setting,
    context: Callable[[], AbstractContextManager[object]],
) -> Work:
    image = normalised_image(setting)

    def step() -> None:
        optimizer.zero_grad()
        with context():
            embedding = encoder(image)
        embedding.float().square().mean().backward()
        optimizer.step()

    return step
