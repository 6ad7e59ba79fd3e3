"""The mask decoder for one image and many boxes, against segment_anything's and Hugging Face's."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.rivals import decode_by_stock, openvino_decoder, our_sam, stock_sam, transformers_sam
from benchmarks.timing import Row, Setting, Work, row, time_in_turns
from monai_cobot.networks import VARIANTS, decode_masks
from monai_cobot.networks.prompts import embed_boxes

BOXES = (1, 16, 64)


def decoding(setting: Setting) -> list[Row]:
    """The rivals over ours for 1, 16 and 64 boxes: from boxes and the image embedding to logits."""
    rows = []
    for count in BOXES:
        task = f"decoder, {count} box{'es' * (count > 1)}, {setting.variant}"
        embedding, boxes = _inputs(count, setting)
        contenders = {**decoders(setting, embedding, boxes), "transformers": _transformers(setting, embedding, boxes)}
        if setting.device.type == "cpu":
            contenders["OpenVINO on segment_anything"] = openvino_decoder(setting, embedding, boxes)
        seconds = time_in_turns(task, contenders, setting)
        rows += [row(task, seconds, rival, "ours") for rival in contenders if rival != "ours"]
    return rows


def decoders_for(setting: Setting, count: int) -> dict[str, Work]:
    """``decoders`` for a number of boxes."""
    return decoders(setting, *_inputs(count, setting))


def decoders(setting: Setting, embedding: Tensor, boxes: Tensor) -> dict[str, Work]:
    """Stock's decoder and ours at work on the same image and boxes."""
    stock, ours = stock_sam(setting), our_sam(setting)

    def run_stock() -> None:
        decode_by_stock(stock, embedding, boxes)

    def run_ours() -> None:
        decode_masks(ours, embedding, embed_boxes(ours.prompt_encoder, boxes.unsqueeze(0)))

    return {
        **setting.in_both_precisions("segment_anything", lambda under: under.inference(run_stock)),
        "ours": setting.inference(run_ours, setting.as_ours()),
    }


def _transformers(setting: Setting, embedding: Tensor, boxes: Tensor) -> Work:
    sam = transformers_sam(setting)

    def run() -> None:
        sam(image_embeddings=embedding, input_boxes=boxes.unsqueeze(0), multimask_output=False)

    return setting.inference(run)


def _inputs(count: int, setting: Setting) -> tuple[Tensor, Tensor]:
    """An image embedding (1, C, h, w) and boxes (N, 4) in pixels of SAM's frame."""
    shape = VARIANTS[setting.variant]
    side = setting.image_size // shape.patch_size
    embedding = torch.randn(1, shape.prompt_width, side, side, device=setting.device)
    corner = torch.rand(count, 2, device=setting.device) * setting.image_size / 2
    return embedding, torch.cat((corner, corner + setting.image_size / 4), dim=1)
