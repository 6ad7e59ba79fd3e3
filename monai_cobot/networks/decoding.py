"""SAM's mask decoder for several images with several prompts each.

The arithmetic and the weights are those of ``segment_anything``'s ``MaskDecoder`` and ``TwoWayTransformer`` (Kirillov
et al., Segment Anything, ICCV 2023, appendix A). The stock decoder takes one image and repeats its embedding for every
prompt. Here

- an image is projected once for all its prompts until the first layer has let the prompts into it;
- on a CPU, without gradients, so many prompts at a time are decoded as fit into its caches;
- the upscaling, whose kernels are as wide as their steps, multiplies tokens where stock convolves planes, and only the
  masks are put together to planes;
- the masks of the three tokens that a single-mask output throws away are not computed.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_cobot.networks._segment_anything import DecoderAttention, LayerNorm2d, Sam, TwoWayAttentionBlock
from monai_cobot.networks.attention import is_captured
from monai_cobot.networks.block import is_watched
from monai_cobot.networks.class_head import ClassHead
from monai_cobot.networks.prompts import embed_grid

CACHED_VALUES = 2**20
"""Values of the image tokens of all prompts that are decoded together: 4 MB, one prompt of ViT-B at 1024 pixels."""


FEW_KEYS = 32
"""Keys, the tokens of a prompt, up to which the pixels' attention to them is written out on a CPU."""


def decode_masks(sam: Sam, embeddings: Tensor, sparse: Tensor) -> tuple[Tensor, Tensor]:
    """Decode one mask a prompt, as SAM does with ``multimask_output=False`` and without a mask prompt.

    Args:
        sam: whose weights are used; modules that adapters put in the place of its own take part.
        embeddings: (B, C, h, w), the image embeddings.
        sparse: (B, N, T, C), T prompt tokens (two for a box) for each of N prompts an image.

    Returns:
        logits (B, N, 4 h, 4 w) and predicted quality (IoU) of the masks (B, N).
    """
    decoder = sam.mask_decoder
    output_tokens = torch.cat((decoder.iou_token.weight, decoder.mask_tokens.weight))
    output_tokens = output_tokens.expand(*sparse.shape[:2], -1, -1)
    tokens = torch.cat((output_tokens, sparse.to(output_tokens.dtype)), dim=2)  # (B, N, 5 + T, C)
    image = _project_image(sam, embeddings)
    masks, qualities = [], []
    for part in _in_parts(tokens, image):
        queries, keys = _transform(sam, part, image)
        weights = decoder.output_hypernetworks_mlps[0](queries[:, :, 1]).unsqueeze(2)  # (B, N, 1, C / 8)
        masks.append(_masks(decoder.output_upscaling, keys, weights, embeddings.shape[-2:])[:, :, 0])
        qualities.append(decoder.iou_prediction_head(queries[:, :, 0])[..., 0])
    return torch.cat(masks, dim=1), torch.cat(qualities, dim=1)


def decode_classes(sam: Sam, head: ClassHead, embeddings: Tensor) -> Tensor:
    """Decode one mask a class, and one of the background, without a prompt; see :class:`ClassHead`.

    Args:
        sam: whose weights are used.
        head: of the classes.
        embeddings: (B, C, h, w), the image embeddings.

    Returns:
        logits (B, K + 1, 4 h, 4 w), the background first; their softmax is the probability of each class.
    """
    decoder = sam.mask_decoder
    tokens = torch.cat((decoder.iou_token.weight, head.tokens)).expand(len(embeddings), 1, -1, -1)  # (B, 1, K + 2, C)
    queries, keys = _transform(sam, tokens, _project_image(sam, embeddings))
    weights = head.mask_weights(decoder, queries[:, 0, 1:]).unsqueeze(1)  # (B, 1, K + 1, C / 8)
    return _masks(decoder.output_upscaling, keys, weights, embeddings.shape[-2:])[:, 0]


class _ProjectedImage(NamedTuple):
    """What the decoder makes of images before it has seen a prompt; P pixels of the embeddings are tokens.

    Attributes:
        keys: (B, 1, P, C).
        positions: (P, C).
        k, v: (B, 1, P, heads, D), for the first layer's attention of tokens to the image.
        q: of the same shape, for its attention of the image to tokens.
    """

    keys: Tensor
    positions: Tensor
    k: Tensor
    v: Tensor
    q: Tensor


def _project_image(sam: Sam, embeddings: Tensor) -> _ProjectedImage:
    # tokens one after the other, or each layer would copy them so
    keys = embeddings.permute(0, 2, 3, 1).contiguous().flatten(1, 2)  # (B, P, C)
    keys = (keys + sam.prompt_encoder.no_mask_embed.weight).unsqueeze(1)
    positions = embed_grid(sam.prompt_encoder).to(keys.dtype)
    first = sam.mask_decoder.transformer.layers[0]
    to_image, from_image = first.cross_attn_token_to_image, first.cross_attn_image_to_token
    placed = keys + positions
    k, v = _heads(to_image, to_image.k_proj(placed)), _heads(to_image, to_image.v_proj(keys))
    return _ProjectedImage(keys, positions, k, v, _heads(from_image, from_image.q_proj(placed)))


def _in_parts(tokens: Tensor, image: _ProjectedImage) -> Sequence[Tensor]:
    """The tokens (B, N, T, C) of as many prompts an image as are decoded together."""
    if tokens.device.type != "cpu" or torch.is_grad_enabled() or is_captured():
        return (tokens,)
    return tokens.split(max(1, CACHED_VALUES // image.keys.numel()), dim=1)


def _transform(sam: Sam, tokens: Tensor, image: _ProjectedImage) -> tuple[Tensor, Tensor]:
    """SAM's two-way transformer: tokens (B, N, T, C) -> tokens that have seen the image, (B, N, P, C)."""
    transformer = sam.mask_decoder.transformer
    queries, keys = tokens, image.keys
    for number, layer in enumerate(transformer.layers):
        queries, keys = _transform_layer(layer, queries, keys, tokens, image.positions, None if number else image)
    attended = _attend(transformer.final_attn_token_to_image, queries + tokens, keys + image.positions, keys)
    return transformer.norm_final_attn(queries + attended), keys


def _transform_layer(
    layer: TwoWayAttentionBlock,
    queries: Tensor,
    keys: Tensor,
    query_positions: Tensor,
    key_positions: Tensor,
    projected: _ProjectedImage | None,
) -> tuple[Tensor, Tensor]:
    """One layer: self-attention of the tokens, tokens to image, feed-forward, image to tokens."""
    if layer.skip_first_layer_pe:
        queries = _attend(layer.self_attn, queries, queries, queries)
    else:
        placed = queries + query_positions
        queries = queries + _attend(layer.self_attn, placed, placed, queries)
    queries = layer.norm1(queries)

    to_image, from_image = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
    if projected is None:
        placed_keys = keys + key_positions
        k, v = _heads(to_image, to_image.k_proj(placed_keys)), _heads(to_image, to_image.v_proj(keys))
        image_q = _heads(from_image, from_image.q_proj(placed_keys))
    else:
        k, v, image_q = projected.k, projected.v, projected.q
    attended = _attend_heads(to_image, _heads(to_image, to_image.q_proj(queries + query_positions)), k, v)
    queries = layer.norm2(queries + attended)
    queries = layer.norm3(queries + layer.mlp(queries))

    k = _heads(from_image, from_image.k_proj(queries + query_positions))
    attended = _attend_heads(from_image, image_q, k, _heads(from_image, from_image.v_proj(queries)))
    return queries, layer.norm4(keys + attended)


def _attend(attention: DecoderAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The decoder's attention: q (B, N, Q, C), k and v (B, N or 1, K, C) -> (B, N, Q, C)."""
    q, k, v = attention.q_proj(q), attention.k_proj(k), attention.v_proj(v)
    return _attend_heads(attention, *(_heads(attention, x) for x in (q, k, v)))


def _heads(attention: DecoderAttention, x: Tensor) -> Tensor:
    """(..., heads D) -> (..., heads, D)."""
    return x.unflatten(-1, (attention.num_heads, -1))


def _attend_heads(attention: DecoderAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention, where either side may be shared by the prompts of an image.

    Args:
        attention: whose output projection is used.
        q: (B, N or 1, Q, heads, D).
        k: (B, N or 1, K, heads, D).
        v: of the shape of k.

    Returns:
        (B, N, Q, C).
    """
    prompts = max(q.shape[1], k.shape[1])
    if k.shape[1] == 1:
        # queries of all prompts meet the same keys: they stand in line as queries of one attention
        q, k, v = (x.flatten(1, 2).transpose(1, 2) for x in (q, k, v))  # (B, heads, N Q, D), (B, heads, K, D)
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).unflatten(1, (prompts, -1))
    else:
        q = q.expand(-1, prompts, -1, -1, -1)
        q, k, v = (x.flatten(0, 1).transpose(1, 2) for x in (q, k, v))  # (B N, heads, Q, D), (B N, heads, K, D)
        few = k.shape[2] <= FEW_KEYS and k.device.type == "cpu"
        out = _attend_few(q, k, v) if few else F.scaled_dot_product_attention(q, k, v)
        out = out.transpose(1, 2).unflatten(0, (-1, prompts))
    return attention.out_proj(out.flatten(-2))


def _attend_few(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """``scaled_dot_product_attention``, whose fused kernel takes three times as long on a CPU for a handful of keys."""
    return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v


def _masks(upscaling: nn.Sequential, keys: Tensor, weights: Tensor, size: torch.Size) -> Tensor:
    """Products of the upscaled image with the weights of masks.

    Args:
        upscaling: SAM's, from C channels at (h, w) to C / 8 at (4 h, 4 w).
        keys: (B, N, h w, C), the image as each prompt sees it.
        weights: (B, N, K, C / 8).
        size: (h, w).

    Returns:
        (B, N, K, 4 h, 4 w).
    """
    height, width = size
    prompts = keys.shape[1]
    keys, weights = keys.flatten(0, 1), weights.flatten(0, 1)  # (B N, h w, C), (B N, K, C / 8)
    layers = _stock_layers(upscaling)
    if layers is None:
        upscaled = upscaling(keys.transpose(1, 2).unflatten(2, (height, width)))
        return (weights @ upscaled.flatten(2)).unflatten(2, (4 * height, 4 * width)).unflatten(0, (-1, prompts))
    first, norm, first_activation, second, second_activation = layers
    x = _quarters(first, keys)  # (B N, 4 h w, C / 4)
    x = first_activation(F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps))
    x = second_activation(_quarters(second, x))  # (B N, 16 h w, C / 8)
    masks = (x @ weights.transpose(1, 2)).unflatten(1, (height, width, 2, 2, 2, 2))
    masks = masks.permute(0, 7, 1, 3, 5, 2, 4, 6)  # (B N, K, h, 2, 2, w, 2, 2)
    return masks.reshape(-1, prompts, masks.shape[1], 4 * height, 4 * width)


def _quarters(convolution: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """A transposed convolution of width and step 2 by tokens: (B, P, C) -> (B, 4 P, C'), a pixel's upper two first."""
    weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (4 C', C)
    bias = None if convolution.bias is None else convolution.bias.repeat(4)
    return F.linear(x, weight, bias).unflatten(2, (4, -1)).flatten(1, 2)


def _stock_layers(
    upscaling: nn.Sequential,
) -> tuple[nn.ConvTranspose2d, LayerNorm2d, nn.Module, nn.ConvTranspose2d, nn.Module] | None:
    """Its layers, if they are those that segment_anything makes and nobody looks at them."""
    kinds = [nn.ConvTranspose2d, LayerNorm2d, nn.GELU, nn.ConvTranspose2d, nn.GELU]
    layers: list[Any] = list(upscaling)
    if [type(layer) for layer in layers] != kinds or any(is_watched(module) for module in upscaling.modules()):
        return None
    for layer in (layers[0], layers[3]):
        if not layer.kernel_size == layer.stride == (2, 2) or layer.padding != (0, 0):
            return None
    return layers[0], layers[1], layers[2], layers[3], layers[4]
