"""Several processes that share the cases of one run, as ``torchrun`` starts them."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

__all__ = ["are_joined", "join_processes", "leave_processes", "of_all_processes", "place_of_process"]

T = TypeVar("T")

# The first to end its share waits for the last.
_LONGEST_WAIT = timedelta(days=7)


def place_of_process() -> tuple[int, int]:
    """The rank of this process and the number of all, as the launcher says; (0, 1) without one."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def are_joined() -> bool:
    """Whether `torch.distributed` runs in this process; there are builds of torch without it."""
    return dist.is_available() and dist.is_initialized()


def join_processes(device: torch.device | str) -> None:
    """Let the processes of a launcher find each other; one alone does nothing.

    Args:
        device: where this process computes.
    """
    if place_of_process()[1] == 1 or are_joined():
        return
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=_LONGEST_WAIT)


def leave_processes() -> None:
    """The end of what `join_processes` began."""
    if are_joined():
        dist.destroy_process_group()


def of_all_processes(part: T) -> list[T]:
    """What each process has, in the order of their ranks, for every one of them; all must take part."""
    if not are_joined():
        return [part]
    parts: list[T] = [part] * dist.get_world_size()
    dist.all_gather_object(parts, part)
    return parts
