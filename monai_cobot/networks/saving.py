"""Saving a whole network, for tools that know nothing of adapters."""

import io
from os import PathLike
from pathlib import Path

import torch
from torch import nn

from monai_cobot.files import write_atomically


def save_network(network: nn.Module, path: str | PathLike[str]) -> Path:
    """Write a network's state dict with ``torch.save``, whole or not at all; adapters in it are part of it.

    Args:
        network: any module; only its tensors are written.
        path: the file to write or to replace.

    Returns:
        The path.

    Raises:
        OSError: the file cannot be written; what was there before is intact.
    """
    buffer = io.BytesIO()
    torch.save(network.state_dict(), buffer)
    return write_atomically(path, buffer.getvalue())
