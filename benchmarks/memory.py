"""The peak memory of a LoRA training step, each in a process of its own.

On a CPU it is the most that the process ever had resident (VmHWM), less what it had after the network was imported but
before it was built. On a GPU it is what torch allocated at most.
"""

from __future__ import annotations

import multiprocessing
import re
from pathlib import Path

import torch
from rich.progress import Progress

from benchmarks.encoder import lora_step, transformers_lora_step
from benchmarks.rivals import our_sam, stock_sam
from benchmarks.timing import Row, Setting
from monai_cobot.networks import set_gradient_checkpointing

KINDS = ("segment_anything", "ours", "ours, gradient checkpointing", "transformers with peft")


def memory(setting: Setting) -> list[Row]:
    """Stock and Hugging Face over ours, without and with gradient checkpointing. One step each: memory does not vary as
    time does."""
    task = f"peak memory of a LoRA step, {setting.variant} {setting.image_size}"
    shown = setting.progress.add_task(task, total=len(KINDS))
    gigabytes = {}
    for kind in KINDS:
        setting.progress.update(shown, description=f"{task}: {kind}")
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            precision = "float32" if kind == KINDS[0] else setting.precision
            shape = setting.variant, setting.image_size, str(setting.device), precision
            gigabytes[kind] = pool.apply(peak_of_step, (kind, *shape))
        setting.progress.advance(shown)
    setting.progress.remove_task(shown)
    asked = {KINDS[2]: 3.0} if setting.image_size == 1024 and setting.device.type == "cpu" else {}
    stock, ours, checkpointed, transformers = KINDS
    return [
        Row(task, rival, kind, ((gigabytes[rival], gigabytes[kind]),), "GB", asked.get(kind))
        for rival, kind in ((stock, ours), (stock, checkpointed), (transformers, ours))
    ]


def peak_of_step(kind: str, variant: str, image_size: int, device: str, precision: str) -> float:
    """Gigabytes of one step, in a process that has done nothing else."""
    setting = Setting(variant, image_size, torch.device(device), precision, 1, "wall", Progress(disable=True))
    before = _resident("VmRSS")
    if kind == KINDS[3]:
        transformers_lora_step(setting)()
    else:
        sam = stock_sam(setting) if kind == KINDS[0] else our_sam(setting)
        if kind == KINDS[2]:
            set_gradient_checkpointing(sam, True)
        lora_step(sam, setting)()
    if setting.device.type == "cuda":
        return torch.cuda.max_memory_allocated(setting.device) / 1e9
    return (_resident("VmHWM") - before) / 1e9


def _resident(field: str) -> int:
    """A size of this process in bytes, as Linux counts it."""
    match = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"), re.MULTILINE)
    if match is None:
        raise OSError(f"/proc/self/status has no {field}: peak memory of a CPU is measured on Linux only.")
    return 1024 * int(match[1])
