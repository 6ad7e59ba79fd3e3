"""The mask decoder alone: the baseline that every method is measured against."""

from __future__ import annotations

from dataclasses import dataclass

from .method import Method, register


@register("decoder_only")
@dataclass(frozen=True)
class DecoderOnly(Method):
    """The image encoder stays frozen, the mask decoder is trained. 0 parameters in the encoder."""
