"""SAM as one differentiable network: images and boxes in, masks out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from monai.data import MetaTensor
from torch import Tensor, nn
from torch.nn import functional as F

from monai_cobot.networks._segment_anything import Sam
from monai_cobot.networks.class_head import class_head_of
from monai_cobot.networks.decoding import decode_classes, decode_masks
from monai_cobot.networks.encoder import use_own_encoder
from monai_cobot.networks.frame import (
    boxes_to_sam_frame,
    logits_to_image,
    pad_to_square,
    points_to_sam_frame,
    resize_longest_side,
)
from monai_cobot.networks.precision import WORTH_HOLDING, HeldWeights, autocast_to, computing_type
from monai_cobot.networks.prompts import embed_boxes, embed_points

_NO_PROMPTS = (
    "This SAM was adapted to segment classes without prompts (head='classes'): call it with the image alone, or take "
    "an adapter that was trained with boxes."
)


class FrozenFeatures(NamedTuple):
    """What the encoder has made of images at some depth, for ``PromptableSam.encode_rest`` to go on from.

    Attributes:
        values: (B, h, w, D), or the image embeddings (B, C, h, w) behind the neck.
        depth: as in ``ImageEncoder``.
    """

    values: Tensor
    depth: int


class PromptableSam(nn.Module):
    """SAM that segments the object in each box, for any image shape; a batch equals its images one by one.

    Sizes, normalisation and padding are SAM's own (``segment_anything``'s ``Sam.preprocess`` and
    ``Sam.postprocess_masks``) and happen inside. ``encode`` and ``decode`` are the two halves of ``forward``, so that
    an image embedding can be kept for many prompts.

    A SAM that was adapted to classes (:class:`~monai_cobot.networks.ClassHead`) takes no boxes and gives the logits of
    all classes.

    Args:
        sam: with or without adapters.
        precision: ``"float32"``; ``"bfloat16"``, products are computed so, under autocast; ``"auto"``, bfloat16 where
            the device has it and float32 elsewhere. Weights, gradients and logits stay float32; the frozen weights
            of a large SAM are also held in bfloat16 (``HeldWeights``).
        held_weights: where those are, of a network that shares its weights with this one; None for a place of its own.

    Raises:
        ValueError: for another precision.
    """

    def __init__(self, sam: Sam, precision: str = "float32", held_weights: HeldWeights | None = None) -> None:
        super().__init__()
        use_own_encoder(sam)
        self.sam = sam
        self.precision = precision
        weights = sum(parameter.numel() for parameter in sam.parameters())
        if held_weights is None and weights >= WORTH_HOLDING:
            held_weights = HeldWeights()
        self.held_weights = held_weights
        self.computing_type()  # an unknown precision is an error here already

    def computing_type(self) -> torch.dtype:
        """The type in which products are computed on the device where the network is."""
        return computing_type(self.precision, self.sam.pixel_mean.device)

    def forward(self, image: Tensor, boxes: Tensor | None = None, features: FrozenFeatures | None = None) -> Tensor:
        """Segment the object in each box.

        Args:
            image: (B, 1 or 3, H, W), floating point in [0, 1].
            boxes: (B, 4) or (B, N, 4) as x_low, y_low, x_high, y_high in pixels of the image, half-open; the whole
                image if None.
            features: what ``encode_frozen`` gave for the images; the encoder goes on from there.

        Returns:
            logits (B, 1, H, W) or (B, N, H, W) in float32, above 0 inside the mask; with the image's metadata if it is
            a MetaTensor. Of a SAM with classes (B, K + 1, H, W), the background first, whose softmax is the
            probability.

        Raises:
            ValueError: the image or the boxes are of a wrong shape or type; a box is empty, inverted, not finite or
                outside; or there are boxes, and the SAM was adapted to classes.
        """
        _check_image(image)
        image_shape = (int(image.shape[-2]), int(image.shape[-1]))
        head = class_head_of(self.sam)
        if head is not None and boxes is not None:
            raise ValueError(_NO_PROMPTS)
        boxes = _checked_boxes(boxes, image, image_shape)  # before the encoder, which takes long
        embedding = self.encode(image) if features is None else self.encode_rest(features)
        if head is None:
            logits, _ = self._decode(embedding, self._embed_boxes(boxes, image_shape), image_shape)
        else:
            with self._autocast():
                logits = decode_classes(self.sam, head, embedding)
            logits = logits_to_image(logits.float(), image_shape, self.sam.image_encoder.img_size)
        if isinstance(image, MetaTensor):
            return MetaTensor(logits).copy_meta_from(image)
        return logits

    def encode(self, image: Tensor) -> Tensor:
        """Encode images.

        Args:
            image: (B, 1 or 3, H, W), floating point in [0, 1].

        Returns:
            (B, C, h, w), the image embeddings: 256 x 64 x 64 for the published SAMs at 1024 pixels.

        Raises:
            ValueError: the image is of a wrong shape or type.
        """
        return self._encode(image)

    @torch.no_grad()
    def encode_frozen(self, image: Tensor, until: int) -> FrozenFeatures:
        """The first part of ``encode``, without gradients: for what stays the same in training (``frozen_depth``).

        Args:
            image: as in ``encode``.
            until: depth as in ``ImageEncoder``, from 0 to one more than there are blocks.

        Returns:
            The features of the images; ``encode_rest`` makes of them exactly what ``encode`` gives.

        Raises:
            ValueError: as in ``encode``.
        """
        return FrozenFeatures(self._encode(image, until), until)

    def encode_rest(self, features: FrozenFeatures) -> Tensor:
        """The second part of ``encode``: features -> (B, C, h, w)."""
        with self._autocast():
            return self.sam.image_encoder(features.values, features.depth)

    @torch.no_grad()
    def encode_stepwise(self, image: Tensor) -> Iterator[FrozenFeatures]:
        """``encode`` block by block, for whoever may want to stop or to wait in between.

        Args:
            image: as in ``encode``.

        Yields:
            The features of depth 0, 1, ...; the values of the last are exactly what ``encode`` gives.

        Raises:
            ValueError: as in ``encode``.
        """
        features = self.encode_frozen(image, 0)
        yield features
        while features.depth <= len(self.sam.image_encoder.blocks):
            with self._autocast():
                values = self.sam.image_encoder(features.values, features.depth, features.depth + 1)
            features = FrozenFeatures(values, features.depth + 1)
            yield features

    def _autocast(self) -> AbstractContextManager:
        return autocast_to(self.computing_type(), self.sam.pixel_mean.device, self.held_weights)

    def _encode(self, image: Tensor, until: int | None = None) -> Tensor:
        """Images (B, 1 or 3, H, W) -> features of a depth, image embeddings if None."""
        _check_image(image)
        size = self.sam.image_encoder.img_size
        image = _plain(image).float()
        # normalisation in one pass, which also turns one channel into three
        image = resize_longest_side(image, size) * (255 / self.sam.pixel_std) - self.sam.pixel_mean / self.sam.pixel_std
        image = pad_to_square(
            image, size
        )  # after normalisation, as SAM does: the padding is not black but mean-coloured
        return self._run_encoder(image, until)

    def _run_encoder(self, pixels: Tensor, until: int | None) -> Tensor:
        """Normalised images (B, 3, size, size) -> features of a depth, image embeddings if None."""
        with self._autocast():
            return self.sam.image_encoder(pixels.to(self.sam.image_encoder.pos_embed.dtype), None, until)

    def decode(
        self,
        embedding: Tensor,
        boxes: Tensor | None,
        image_shape: tuple[int, int],
        points: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Decode masks from image embeddings and prompts: boxes, points, or points together with a box.

        Args:
            embedding: (B, C, h, w), from ``encode``.
            boxes: as in ``forward``; None for the whole image or, where there are points, for no box.
            image_shape: rows and columns of the images that were encoded.
            points: (B, N, P, 2) as x, y in pixels of the image, the middle of the first pixel at 0.5; P points for each
                of N objects, N as in the boxes.
            labels: (B, N, P), 1 for a point in the object, 0 for one outside it, -1 for none, where objects have
                different numbers of points.

        Returns:
            logits (B, N, H, W) in float32 and SAM's prediction of their IoU with the true masks, (B, N) in float32.

        Raises:
            ValueError: as in ``forward`` for the boxes; the points or labels are of a wrong shape, outside the image or
                of an unknown label; the embedding is of another SAM or image size; or the SAM was adapted to classes.
        """
        if class_head_of(self.sam) is not None:
            raise ValueError(_NO_PROMPTS)
        encoder = self.sam.prompt_encoder
        expected = (encoder.embed_dim, *encoder.image_embedding_size)
        if embedding.ndim != 4 or tuple(embedding.shape[1:]) != expected:
            raise ValueError(
                f"Expected embeddings of shape (B, {', '.join(map(str, expected))}), got {tuple(embedding.shape)}: "
                "encode the image with this network."
            )
        if points is None:
            if labels is not None:
                raise ValueError("Expected points with the labels, got labels alone.")
            boxes = _checked_boxes(boxes, embedding, image_shape)
            return self._decode(embedding, self._embed_boxes(boxes, image_shape), image_shape)
        points, labels = _checked_points(points, labels, embedding, image_shape)
        if boxes is not None:
            boxes = _checked_boxes(boxes, embedding, image_shape)
            if boxes.shape[1] != points.shape[1]:
                raise ValueError(
                    f"Expected as many boxes as groups of points, got {boxes.shape[1]} and {points.shape[1]}."
                )
        return self._decode(embedding, self._embed_prompts(boxes, points, labels, image_shape), image_shape)

    def _embed_boxes(self, boxes: Tensor, image_shape: tuple[int, int]) -> Tensor:
        """Boxes (B, N, 4) that were checked -> (B, N, 2, C)."""
        boxes = boxes_to_sam_frame(boxes, image_shape, self.sam.image_encoder.img_size)
        return embed_boxes(self.sam.prompt_encoder, boxes)

    def _embed_prompts(
        self, boxes: Tensor | None, points: Tensor, labels: Tensor, image_shape: tuple[int, int]
    ) -> Tensor:
        """Points (B, N, P, 2), with or without boxes (B, N, 4) -> (B, N, tokens, C), in SAM's order."""
        points = points_to_sam_frame(points, image_shape, self.sam.image_encoder.img_size)
        if boxes is None:  # a point that is none stands where SAM learned to expect the box
            points, labels = F.pad(points, (0, 0, 0, 1)), F.pad(labels, (0, 1), value=-1)
        tokens = embed_points(self.sam.prompt_encoder, points, labels)
        return tokens if boxes is None else torch.cat((tokens, self._embed_boxes(boxes, image_shape)), dim=2)

    def _decode(self, embedding: Tensor, sparse: Tensor, image_shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """``decode`` for the tokens (B, N, T, C) of the prompts."""
        with self._autocast():
            logits, quality = decode_masks(self.sam, embedding, sparse)
        return logits_to_image(logits.float(), image_shape, self.sam.image_encoder.img_size), quality.float()


def _plain(tensor: Tensor) -> Tensor:
    """Without MONAI's metadata, which every layer would carry along."""
    return tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor


def _check_image(image: Tensor) -> None:
    if image.ndim != 4 or image.shape[1] not in (1, 3) or 0 in image.shape:
        raise ValueError(f"Expected images of shape (B, 1 or 3, H, W), none of it 0, got {tuple(image.shape)}.")
    if not image.is_floating_point():
        raise ValueError(
            f"Expected images of a floating point type with values in [0, 1], got {image.dtype}: rescale it, for "
            "8-bit images with image / 255."
        )


def _checked_boxes(boxes: Tensor | None, batch: Tensor, image_shape: tuple[int, int]) -> Tensor:
    """Boxes as plain (B, N, 4) float32 on the device of a batch of images or embeddings; whole images if None."""
    height, width = image_shape
    if boxes is None:
        whole = torch.tensor((0.0, 0.0, width, height), dtype=torch.float32, device=batch.device)
        return whole.expand(batch.shape[0], 1, 4)
    if boxes.ndim not in (2, 3) or boxes.shape[-1] != 4 or 0 in boxes.shape:
        raise ValueError(
            f"Expected boxes of shape (B, 4) or (B, N, 4), at least one an image, got {tuple(boxes.shape)}."
        )
    if boxes.shape[0] != batch.shape[0]:
        raise ValueError(
            f"Expected boxes for a batch of {batch.shape[0]}, got {boxes.shape[0]}: several boxes of one image have "
            "the shape (1, N, 4)."
        )
    if boxes.dtype == torch.bool or boxes.is_complex():
        raise ValueError(f"Expected boxes of an integer or floating point type, got {boxes.dtype}.")
    boxes = _plain(boxes).float()
    if not torch.jit.is_tracing() and not torch.compiler.is_compiling():  # there, values are not known yet
        _check_box_values(boxes, image_shape)
    return (boxes.unsqueeze(1) if boxes.ndim == 2 else boxes).to(batch.device)


def _check_box_values(boxes: Tensor, image_shape: tuple[int, int]) -> None:
    height, width = image_shape
    low, high = boxes[..., :2], boxes[..., 2:]
    usable = (low < high) & (high > 0) & (low < boxes.new_tensor((width, height)))  # false for NaN
    usable = usable.all(-1) & boxes.isfinite().all(-1)
    if not usable.all():
        index = tuple((~usable).nonzero()[0].tolist())
        raise ValueError(
            f"Box {boxes[index].tolist()} at index {index} is inverted, empty, not finite or outside the image: "
            f"expected x_low < x_high and y_low < y_high in pixels of an image of {width} columns and {height} rows."
        )


def _checked_points(
    points: Tensor, labels: Tensor | None, batch: Tensor, image_shape: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Points as plain float32 and labels as integers, on the device of a batch of embeddings."""
    if points.ndim != 4 or points.shape[-1] != 2 or points.shape[0] != batch.shape[0] or 0 in points.shape:
        raise ValueError(
            f"Expected points of shape (B, N, P, 2), at least one an object, for a batch of {batch.shape[0]}, got "
            f"{tuple(points.shape)}."
        )
    if labels is None or labels.shape != points.shape[:-1]:
        got = None if labels is None else tuple(labels.shape)
        raise ValueError(f"Expected one label a point, of shape {tuple(points.shape[:-1])}, got {got}.")
    points = _plain(points).float().to(batch.device)
    labels = _plain(labels).long().to(batch.device)
    if not torch.jit.is_tracing() and not torch.compiler.is_compiling():  # there, values are not known yet
        _check_point_values(points, labels, image_shape)
    return points, labels


def _check_point_values(points: Tensor, labels: Tensor, image_shape: tuple[int, int]) -> None:
    if not ((labels >= -1) & (labels <= 1)).all():
        raise ValueError(
            f"Expected the labels 1 (inside), 0 (outside) and -1 (no point), got {labels.unique().tolist()}."
        )
    height, width = image_shape
    inside = ((points >= 0) & (points <= points.new_tensor((width, height)))).all(-1)  # false for NaN
    wrong = ~inside & (labels >= 0)
    if wrong.any():
        index = tuple(wrong.nonzero()[0].tolist())
        raise ValueError(
            f"Point {points[index].tolist()} at index {index} is outside an image of {width} columns and {height} rows."
        )
