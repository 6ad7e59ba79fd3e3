"""The mask decoder for one image and many boxes, against segment_anything's."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.rivals import our_sam, stock_sam
from benchmarks.timing import Row, Setting, Work, row, time_in_turns
from monai_cobot.networks import decode_masks
from monai_cobot.networks.prompts import embed_boxes

BOXES = (1, 16, 64)


def decoding(setting: Setting) -> list[Row]:
    """Stock over ours for 1, 16 and 64 boxes: from boxes and the image embedding to logits."""
    rows = []
    for count in BOXES:
        task = f"decoder, {count} box{'es' * (count > 1)}, {setting.variant}"
        seconds = time_in_turns(task, decoders(setting, count), setting)
        rows.append(row(task, seconds, "segment_anything", "ours"))
    return rows


def decoders(setting: Setting, count: int) -> dict[str, Work]:
    """Stock's decoder and ours at work on the same image and boxes."""
    stock, ours = stock_sam(setting), our_sam(setting)
    side = stock.prompt_encoder.image_embedding_size[0]
    embedding = torch.randn(1, stock.prompt_encoder.embed_dim, side, side, device=setting.device)
    boxes = _boxes(count, setting)

    def run_stock() -> None:
        sparse, dense = stock.prompt_encoder(points=None, boxes=boxes, masks=None)
        stock.mask_decoder(embedding, stock.prompt_encoder.get_dense_pe(), sparse, dense, multimask_output=False)

    def run_ours() -> None:
        decode_masks(ours, embedding, embed_boxes(ours.prompt_encoder, boxes.unsqueeze(0)))

    def without_gradients(work: Work) -> Work:
        def run() -> None:
            with torch.inference_mode(), setting.autocast():
                work()

        return run

    return {"segment_anything": without_gradients(run_stock), "ours": without_gradients(run_ours)}


def _boxes(count: int, setting: Setting) -> Tensor:
    """Boxes (N, 4) in pixels of SAM's frame."""
    corner = torch.rand(count, 2, device=setting.device) * setting.image_size / 2
    return torch.cat((corner, corner + setting.image_size / 4), dim=1)
