"""SAM's mask decoder for several images with several prompts each.

The arithmetic and the weights are those of ``segment_anything``'s ``MaskDecoder`` and ``TwoWayTransformer`` (Kirillov
et al., Segment Anything, ICCV 2023, appendix A). The stock decoder takes one image and repeats its embedding for every
prompt. Here an image is projected once for all its prompts until the first layer has let the prompts into it, and the
masks of the three tokens that a single-mask output throws away are not computed.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from monai_cobot.networks._segment_anything import DecoderAttention, MaskDecoder, Sam, TwoWayAttentionBlock
from monai_cobot.networks.class_head import ClassHead
from monai_cobot.networks.prompts import embed_grid


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
    images, prompts = sparse.shape[:2]
    height, width = embeddings.shape[-2:]
    output_tokens = torch.cat((decoder.iou_token.weight, decoder.mask_tokens.weight))
    tokens = torch.cat((output_tokens.expand(images, prompts, -1, -1), sparse.to(output_tokens.dtype)), dim=2)
    queries, upscaled = _attend_to_image(sam, embeddings, tokens)
    hypernetwork = decoder.output_hypernetworks_mlps[0]
    quality = decoder.iou_prediction_head(queries[:, :, 0])[..., 0]
    weights = hypernetwork(queries[:, :, 1]).flatten(0, 1).unsqueeze(1)  # (B N, 1, C / 8)
    logits = weights @ upscaled.flatten(2)  # (B N, 1, 16 h w)
    return logits.reshape(images, prompts, 4 * height, 4 * width), quality


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
    images, _, height, width = embeddings.shape
    tokens = torch.cat((decoder.iou_token.weight, head.tokens)).expand(images, 1, -1, -1)  # (B, 1, 1 + K + 1, C)
    queries, upscaled = _attend_to_image(sam, embeddings, tokens)
    weights = head.mask_weights(decoder, queries[:, 0, 1:])  # (B, K + 1, C / 8)
    return (weights @ upscaled.flatten(2)).unflatten(2, (4 * height, 4 * width))


def _attend_to_image(sam: Sam, embeddings: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings (B, C, h, w), tokens (B, N, T, C) -> tokens that have seen the image, (B N, C / 8, 4 h, 4 w)."""
    height, width = embeddings.shape[-2:]
    image = embeddings.flatten(2).transpose(1, 2) + sam.prompt_encoder.no_mask_embed.weight  # (B, h w, C)
    positions = embed_grid(sam.prompt_encoder).to(image.dtype)  # (h w, C)
    queries, keys = _transform(sam.mask_decoder, tokens, image, positions)
    # (B N, C, h, w) seen over (B, N, h w, C)
    features = keys.flatten(0, 1).transpose(1, 2).unflatten(2, (height, width))
    return queries, sam.mask_decoder.output_upscaling(features)


def _transform(decoder: MaskDecoder, tokens: Tensor, image: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """SAM's two-way transformer: tokens (B, N, T, C), image (B, P, C), positions (P, C) -> tokens, (B, N, P, C)."""
    transformer = decoder.transformer
    queries = tokens
    keys = image.unsqueeze(1)  # (B, 1, P, C): one for all prompts of an image until the first layer's end
    for layer in transformer.layers:
        queries, keys = _transform_layer(layer, queries, keys, tokens, positions)
    attended = _attend(transformer.final_attn_token_to_image, queries + tokens, keys + positions, keys)
    return transformer.norm_final_attn(queries + attended), keys


def _transform_layer(
    layer: TwoWayAttentionBlock, queries: Tensor, keys: Tensor, query_positions: Tensor, key_positions: Tensor
) -> tuple[Tensor, Tensor]:
    """One layer: self-attention of the tokens, tokens to image, feed-forward, image to tokens."""
    if layer.skip_first_layer_pe:
        queries = _attend(layer.self_attn, queries, queries, queries)
    else:
        placed = queries + query_positions
        queries = queries + _attend(layer.self_attn, placed, placed, queries)
    queries = layer.norm1(queries)

    placed_keys = keys + key_positions
    attended = _attend(layer.cross_attn_token_to_image, queries + query_positions, placed_keys, keys)
    queries = layer.norm2(queries + attended)
    queries = layer.norm3(queries + layer.mlp(queries))

    attended = _attend(layer.cross_attn_image_to_token, placed_keys, queries + query_positions, queries)
    return queries, layer.norm4(keys + attended)


def _attend(attention: DecoderAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The decoder's attention, where either side may be shared by the prompts of an image.

    Args:
        attention: whose projections are used.
        q: (B, N or 1, Q, C).
        k: (B, N or 1, K, C).
        v: of the shape of k.

    Returns:
        (B, N, Q, C).
    """
    q, k, v = (
        projection(x).unflatten(-1, (attention.num_heads, -1))  # (B, N or 1, tokens, heads, D)
        for projection, x in ((attention.q_proj, q), (attention.k_proj, k), (attention.v_proj, v))
    )
    prompts = max(q.shape[1], k.shape[1])
    if k.shape[1] == 1:
        # queries of all prompts meet the same keys: they stand in line as queries of one attention
        q, k, v = (x.flatten(1, 2).transpose(1, 2) for x in (q, k, v))  # (B, heads, N Q, D), (B, heads, K, D)
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).unflatten(1, (prompts, -1))
    else:
        q = q.expand(-1, prompts, -1, -1, -1)
        q, k, v = (x.flatten(0, 1).transpose(1, 2) for x in (q, k, v))  # (B N, heads, Q, D), (B N, heads, K, D)
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).unflatten(0, (-1, prompts))
    return attention.out_proj(out.flatten(-2))
