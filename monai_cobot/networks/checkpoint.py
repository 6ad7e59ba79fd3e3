"""SAM's weights: reading them from files, fitting them into a network, naming them by their digest."""

import hashlib
import pickle
import re
import zipfile
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional as F

from monai_cobot.networks._segment_anything import Sam
from monai_cobot.networks.variants import VARIANTS, variant_with

WRAPPERS = ("model", "state_dict")
"""Entries under which training scripts keep a state dict (MedSAM, Lightning)."""

PREFIXES = ("module.", "_orig_mod.", "sam.")
"""What DistributedDataParallel, torch.compile and PromptableSam put in front of every key."""

POSITION_KEY = "image_encoder.pos_embed"
SHOWN_KEYS = 10


def load_checkpoint(path: str | PathLike[str]) -> dict[str, Tensor]:
    """Read a SAM's state dict: official files, MedSAM's, wrapped in ``{"model": ...}`` or ``{"state_dict": ...}``, with
    prefixes.

    Nothing is unpickled but tensors and plain containers.

    Args:
        path: a ``.safetensors`` file, or one written by ``torch.save``.

    Returns:
        Tensors on the CPU by segment_anything's names.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the path is a folder, or the file is empty, damaged, holds other Python objects, or no state dict.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"The checkpoint {path} is a folder: name the file in it.")
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint {path}: check the path, or download the checkpoint first.")
    if path.stat().st_size == 0:
        raise ValueError(f"The checkpoint {path} is empty (0 bytes): download or save it again.")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(item, Tensor) for item in content.values())
    ):
        raise ValueError(
            f"{path} holds no state dict: expected names and tensors, alone or under "
            f"{' or '.join(map(repr, WRAPPERS))}. Save one with torch.save(model.state_dict(), path)."
        )
    state = dict(content)
    while prefix := next((prefix for prefix in PREFIXES if all(key.startswith(prefix) for key in state)), None):
        state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return state


def checkpoint_variant(path: str | PathLike[str]) -> str:
    """The variant whose weights a file holds, by their shapes.

    Raises:
        FileNotFoundError, ValueError: as ``load_checkpoint``; or they are the weights of no variant.
    """
    state = load_checkpoint(path)
    described = _describe(state)
    if described not in VARIANTS:
        raise ValueError(
            f"{path} holds {described or 'no image encoder'}: expected the weights of one of {', '.join(VARIANTS)}."
        )
    return described


def _read_safetensors(path: Path) -> object:
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is damaged or no safetensors file ({error}): download or save it again.") from error


def _read_torch(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # an intact file of torch.save is a zip archive; of its older format, only the message tells which it is
        if zipfile.is_zipfile(path) or "Unsupported global" in str(error):
            raise ValueError(
                f"{path} holds Python objects besides tensors, which are not loaded: they could run any code. If you "
                "trust it, save its state dict in the environment that wrote it: torch.save(model.state_dict(), path)."
            ) from error
        raise ValueError(f"{path} is damaged or no file of torch.save: download or save it again.") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is damaged or no file of torch.save ({error}): download or save it again.") from error


def load_into(sam: Sam, state: Mapping[str, Tensor]) -> None:
    """Load a state dict of the same variant, trained at the same or another image size, into a SAM.

    For another image size the absolute position embedding is resized (bicubic), and the relative position tables of the
    blocks with global attention are interpolated linearly, as segment_anything itself does at run time. Nothing else
    may differ.

    Args:
        sam: is changed in place. Where its parameters are on the meta device, new ones take their place.
        state: tensors by segment_anything's names; cast to the parameters' type.

    Raises:
        ValueError: keys are missing, unexpected or of a wrong shape; says all of them and leaves the SAM as it was.
    """
    own = sam.state_dict()
    fitted = {
        key: _fit_positions(sam, key, tensor, own[key].shape, state) if key in own else tensor
        for key, tensor in state.items()
    }
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own]
    misshaped = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and fitted[key].shape != own[key].shape
    ]
    if missing or unexpected or misshaped:
        raise ValueError(_mismatch(sam, state, missing, unexpected, misshaped))
    # cast first: load_state_dict(assign=True) would keep the checkpoint's type
    fitted = {key: tensor.to(own[key].dtype) for key, tensor in fitted.items()}
    sam.load_state_dict(fitted, assign=next(sam.parameters()).is_meta)
    sam.known_sha256 = None  # it was that of the weights before


def _fit_positions(sam: Sam, key: str, tensor: Tensor, shape: torch.Size, state: Mapping[str, Tensor]) -> Tensor:
    """A position embedding in the shape that the SAM has; the tensor itself where it is none, or does not fit."""
    positions = state.get(POSITION_KEY)
    if tensor.shape == shape or positions is None or positions.ndim != 4 or positions.shape[1] != positions.shape[2]:
        return tensor
    grid = positions.shape[1]
    if key == POSITION_KEY and tensor.shape[-1] == shape[-1]:
        return _resize_absolute(tensor, shape[1])
    if _is_global_table(sam, key) and tensor.shape == (2 * grid - 1, shape[1]):
        return _resize_relative(tensor, shape[0])
    return tensor


def _is_global_table(sam: Sam, key: str) -> bool:
    """Whether a key names a relative position table of a block with global attention."""
    found = re.fullmatch(r"image_encoder\.blocks\.(\d+)\.attn\.rel_pos_[hw]", key)
    return found is not None and sam.image_encoder.blocks[int(found[1])].window_size == 0


def _resize_absolute(positions: Tensor, grid: int) -> Tensor:
    """(1, g, g, C) -> (1, grid, grid, C)."""
    channels_first = positions.float().permute(0, 3, 1, 2)
    resized = F.interpolate(channels_first, (grid, grid), mode="bicubic", align_corners=False, antialias=True)
    return resized.permute(0, 2, 3, 1).contiguous()


def _resize_relative(table: Tensor, length: int) -> Tensor:
    """(2 g - 1, D) -> (length, D)."""
    return F.interpolate(table.float().T.unsqueeze(0), length, mode="linear").squeeze(0).T.contiguous()


def _mismatch(
    sam: Sam, state: Mapping[str, Tensor], missing: list[str], unexpected: list[str], misshaped: list[str]
) -> str:
    """Say everything that keeps a state dict from fitting into a SAM."""
    lines = ["The checkpoint does not fit this SAM."]
    expected, found = _describe(sam.state_dict()), _describe(state)
    if found is not None and found != expected:
        lines.append(
            f"It looks like {found}, where {expected} was expected: name that variant, or take another checkpoint."
        )
    for title, keys in (("Missing", missing), ("Unexpected", unexpected), ("Wrong shape", misshaped)):
        if keys:
            more = f", and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
            lines.append(f"{title} ({len(keys)}): {', '.join(keys[:SHOWN_KEYS])}{more}")
    return "\n".join(lines)


def _describe(state: Mapping[str, Tensor]) -> str | None:
    """The variant that a state dict's shapes are those of, or its dimensions; None where they cannot be told."""
    positions = state.get(POSITION_KEY)
    blocks = {key.split(".")[2] for key in state if key.startswith("image_encoder.blocks.")}
    if positions is None or positions.ndim != 4 or not blocks:
        return None
    width, depth = positions.shape[-1], len(blocks)
    return variant_with(width, depth) or f"an image encoder of width {width} and depth {depth}"


def base_weights_sha256(sam: Sam) -> str:
    """The SHA-256 digest that names a SAM's weights: parameters and persistent buffers, whatever image size, device or
    attention they use.

    Over the entries of the state dict, sorted by name: the name, the shape, and the values as little-endian float32.
    The positions that ``load_into`` fits to the image size are left out: their interpolation may round differently on
    another machine, where an adapter would then not recognise its SAM.

    Args:
        sam: before any adapter is injected, for an adapter's parameters would count too. Where it has the attribute
            ``known_sha256``, that is returned: whoever made it from weights that were digested already has set it, and
            ``load_into`` takes it back.

    Returns:
        64 hexadecimal digits.
    """
    known: str | None = getattr(sam, "known_sha256", None)
    if known is not None:
        return known
    digest = hashlib.sha256()
    for name, tensor in sorted(sam.state_dict().items()):
        if name == POSITION_KEY or _is_global_table(sam, name):
            continue
        values = tensor.detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name}{tuple(values.shape)}".encode())
        digest.update(values.numpy().astype("<f4", copy=False).data)
    return digest.hexdigest()
