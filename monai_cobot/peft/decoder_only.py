"""The mask decoder alone: the baseline that every method is measured against."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from monai_cobot.networks._segment_anything import Sam

from .method import AdaptedModule, Method, register


@register("decoder_only")
@dataclass(frozen=True)
class DecoderOnly(Method):
    """The image encoder stays frozen, the mask decoder is trained. 0 parameters in the encoder."""

    def replacements(self, sam: Sam) -> Iterator[tuple[str, AdaptedModule]]:
        """Nothing is replaced."""
        yield from ()
