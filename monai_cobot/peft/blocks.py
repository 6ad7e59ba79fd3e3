"""Which blocks, and which other parts, of the image encoder get adapters."""

from __future__ import annotations

from monai_cobot.networks._segment_anything import Block, Sam

from .method import require_whole


def last_blocks(sam: Sam, count: int | None) -> list[tuple[int, Block]]:
    """The last blocks of the encoder with their indices, in network order.

    What lies in front of the first adapter stays frozen: it needs no backward pass, and its output is the same in every
    epoch.

    Args:
        sam: whose blocks.
        count: how many, from 1 to all; None for all.

    Raises:
        ValueError: if that is no whole number, or the encoder does not have so many.
    """
    depth = len(sam.image_encoder.blocks)
    if count is None:
        count = depth
    require_whole("blocks", count)
    if count > depth:
        raise ValueError(
            f"blocks={count} does not fit this encoder: expected 1 to {depth} of its last blocks, or None for all."
        )
    return list(enumerate(sam.image_encoder.blocks))[depth - count :]


def last_parts(sam: Sam, count: int | None) -> list[str]:
    """The names of the last parts of a SAM's encoder: the last blocks and the neck; the patch embedding only with all.

    Args:
        sam: whose encoder.
        count: how many blocks, as in :func:`last_blocks`; None for all and the patch embedding.

    Raises:
        ValueError: if that is no whole number, or the encoder does not have so many blocks.
    """
    blocks = [f"image_encoder.blocks.{index}" for index, _ in last_blocks(sam, count)]
    return [*(["image_encoder.patch_embed"] if count is None else []), *blocks, "image_encoder.neck"]
