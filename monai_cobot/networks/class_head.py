"""SAM's mask decoder without prompts: one mask for each of some classes and for the background."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_cobot.networks._segment_anything import MaskDecoder, Sam

__all__ = ["ClassHead", "class_head_of"]

ATTRIBUTE = "class_head"
"""Under which the mask decoder holds it."""


class ClassHead(nn.Module):
    """What the mask decoder needs beside its own weights to segment K classes and the background at once.

    There is no prompt, as in Conv-LoRA (Zhong et al., ICLR 2024), and each class has a mask token of its own. With
    t_k, the k-th token behind the two-way transformer, phi, the hidden layers of SAM's first hypernetwork, and u(x),
    the upscaled image embedding at x, the logit of class k is

        m_k(x) = (W_k phi(t_k) + b_k) . u(x),   p(x) = softmax_k m_k(x),   k = 0 (background), 1, ..., K.

    Conv-LoRA has unordered mask tokens, all through SAM's first hypernetwork, and a linear class branch that says whose
    each is, which needs a matching in training. Here a token belongs to its class from the start, as in SAMed (Zhang
    and Liu, 2023), so that a mask is compared with that of its class; only the last layer is a class's own.

    It starts from what SAM knows: each token is that of SAM's single mask, W_k and b_k are its hypernetwork's, and
    those of the background their negative, so that at first all classes are where SAM sees an object.

    Parameters: (K + 1) * (C + C/8 * (C + 1)); 50,880 for five classes on ViT-B (C = 256).

    Args:
        decoder: SAM's mask decoder, of width C; its values are copied.
        classes: K, without the background.

    Raises:
        ValueError: K is no whole number of at least 1.
    """

    def __init__(self, decoder: MaskDecoder, classes: int) -> None:
        super().__init__()
        if not isinstance(classes, int) or isinstance(classes, bool) or classes < 1:
            raise ValueError(f"The number of classes must be a whole number of at least 1, got {classes!r}.")
        last = decoder.output_hypernetworks_mlps[0].layers[-1]
        token = decoder.mask_tokens.weight[0]  # (C,)
        signs = torch.ones(classes + 1).to(token)
        signs[0] = -1
        self.classes = classes
        self.tokens = nn.Parameter(token.detach().repeat(classes + 1, 1))  # (K + 1, C)
        self.weight = nn.Parameter(signs[:, None, None] * last.weight.detach())  # (K + 1, C / 8, C)
        self.bias = nn.Parameter(signs[:, None] * last.bias.detach())  # (K + 1, C / 8)

    def mask_weights(self, decoder: MaskDecoder, tokens: Tensor) -> Tensor:
        """Tokens behind the transformer (B, K + 1, C) -> weights of the upscaled embedding (B, K + 1, C / 8)."""
        for layer in decoder.output_hypernetworks_mlps[0].layers[:-1]:
            tokens = F.relu(layer(tokens))
        return torch.einsum("bkc,kdc->bkd", tokens, self.weight) + self.bias


def class_head_of(sam: Sam) -> ClassHead | None:
    """The class head that a SAM was adapted with, or None for one that takes prompts."""
    return getattr(sam.mask_decoder, ATTRIBUTE, None)


def unused_with_classes(name: str) -> bool:
    """Whether a parameter of the mask decoder has no part in what a class head gives."""
    beginnings = ("mask_tokens.", "iou_prediction_head.", "output_hypernetworks_mlps.")
    hidden = ("output_hypernetworks_mlps.0.layers.0.", "output_hypernetworks_mlps.0.layers.1.")
    return name.startswith(beginnings) and not name.startswith(hidden)
