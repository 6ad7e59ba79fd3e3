import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from monai.data import MetaTensor
from segment_anything.modeling import Sam
from torch import Tensor
from torch.nn import functional as F

from monai_cobot.networks import PromptableSam, decode_masks, set_attention, set_gradient_checkpointing
from monai_cobot.networks.frame import boxes_to_sam_frame, resize_longest_side
from monai_cobot.networks.prompts import embed_boxes, embed_grid

BuildSam = Callable[..., Sam]


@pytest.fixture
def two_blocks(random_sam: BuildSam) -> Sam:
    """A SAM with one block of each kind of attention, for what takes seconds a block."""
    sam = random_sam()
    sam.image_encoder.blocks = sam.image_encoder.blocks[2:4]
    assert [block.window_size for block in sam.image_encoder.blocks] == [8, 0]
    return sam


def boxes_of(batch: int, prompts: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    low = torch.rand(batch, prompts, 2, generator=generator) * 0.5
    high = low + 0.1 + 0.4 * torch.rand(batch, prompts, 2, generator=generator)
    return torch.cat((low, high), dim=-1) * torch.tensor((width, height, width, height))


def stock(sam: Sam, image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """segment_anything's own steps for an image (3, H, W) and boxes (N, 4): logits (N, H, W), quality (N)."""
    shape = (image.shape[-2], image.shape[-1])
    size = sam.image_encoder.img_size
    resized = resize_longest_side(255 * image, size)
    embedding = sam.image_encoder(sam.preprocess(resized)[None])
    sparse, dense = sam.prompt_encoder(points=None, boxes=boxes_to_sam_frame(boxes, shape, size), masks=None)
    low_resolution, quality = sam.mask_decoder(embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense, False)
    return sam.postprocess_masks(low_resolution, resized.shape[-2:], shape)[:, 0], quality[:, 0]


def stock_decoder(sam: Sam, embeddings: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """segment_anything's decoder, image by image, for boxes (B, N, 4) in SAM's frame."""
    results = []
    for embedding, image_boxes in zip(embeddings, boxes, strict=True):
        sparse, dense = sam.prompt_encoder(points=None, boxes=image_boxes, masks=None)
        positions = sam.prompt_encoder.get_dense_pe()
        results.append(sam.mask_decoder(embedding[None], positions, sparse, dense, multimask_output=False))
    return torch.stack([logits[:, 0] for logits, _ in results]), torch.stack([quality[:, 0] for _, quality in results])


def difference(one: Tensor, other: Tensor) -> float:
    return ((one - other).norm() / other.norm()).item()


@pytest.mark.parametrize(("batch", "prompts"), [(1, 1), (3, 1), (1, 4), (2, 3)])
def test_the_decoder_and_its_gradients_equal_the_stock_decoder_image_by_image(
    random_sam: BuildSam, batch: int, prompts: int
) -> None:
    sam = random_sam()
    trained = [*sam.mask_decoder.parameters(), sam.prompt_encoder.no_mask_embed.weight]
    # a predicted quality that happens to lie near 0 would leave no digits to compare
    embeddings = torch.randn(batch, 128, 8, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    boxes = boxes_of(batch, prompts, 64, 64)
    gradients = []
    outputs = []
    for logits, quality in (
        decode_masks(sam, embeddings, embed_boxes(sam.prompt_encoder, boxes)),
        stock_decoder(sam, embeddings, boxes),
    ):
        loss = logits.square().mean() + quality.square().mean()
        first, *rest = torch.autograd.grad(loss, (embeddings, *trained), allow_unused=True, materialize_grads=True)
        gradients.append((first, torch.cat([gradient.flatten() for gradient in rest])))
        outputs.append((logits, quality))
    for ours, theirs in zip((*outputs[0], *gradients[0]), (*outputs[1], *gradients[1]), strict=True):
        assert ours.shape == theirs.shape
        assert difference(ours, theirs) < 1e-5


def test_decoding_a_few_prompts_at_a_time_equals_all_at_once(
    random_sam: BuildSam, monkeypatch: pytest.MonkeyPatch
) -> None:
    sam = random_sam()
    embeddings = torch.randn(2, sam.prompt_encoder.embed_dim, *sam.prompt_encoder.image_embedding_size)
    sparse = torch.randn(2, 5, 2, sam.prompt_encoder.embed_dim)
    expected = [output.detach() for output in decode_masks(sam, embeddings, sparse)]  # with gradients, all at once
    seen = []
    sam.mask_decoder.iou_prediction_head.register_forward_hook(lambda _m, _i, output: seen.append(output.shape[1]))
    for values, parts in ((0, [1] * 5), (4 * embeddings.numel(), [4, 1])):
        monkeypatch.setattr("monai_cobot.networks.decoding.CACHED_VALUES", values)
        with torch.no_grad():
            found = decode_masks(sam, embeddings, sparse)
        assert seen == parts
        seen.clear()
        assert all(difference(one, other) < 1e-5 for one, other in zip(found, expected, strict=True))


def test_another_upscaling_or_one_that_is_watched_is_called_as_it_is(random_sam: BuildSam) -> None:
    sam = random_sam()
    embeddings = torch.randn(1, sam.prompt_encoder.embed_dim, *sam.prompt_encoder.image_embedding_size)
    sparse = torch.randn(1, 2, 2, sam.prompt_encoder.embed_dim)
    expected, _ = decode_masks(sam, embeddings, sparse)
    shapes = []
    hook = sam.mask_decoder.output_upscaling[0].register_forward_hook(lambda _m, _i, out: shapes.append(out.ndim))
    watched, _ = decode_masks(sam, embeddings, sparse)
    assert shapes == [4]
    assert difference(watched, expected) < 1e-5
    hook.remove()
    sam.mask_decoder.output_upscaling[4] = torch.nn.Identity()
    other, _ = decode_masks(sam, embeddings, sparse)
    assert difference(other, expected) > 1e-5


def test_the_grid_follows_its_matrix_and_its_size(random_sam: BuildSam) -> None:
    encoder = random_sam().prompt_encoder
    with torch.inference_mode():
        first = embed_grid(encoder)
    assert embed_grid(encoder) is first
    assert not first.is_inference()  # or no gradient could pass by it later on
    encoder.pe_layer.positional_encoding_gaussian_matrix.mul_(2)
    assert difference(embed_grid(encoder), encoder.get_dense_pe()[0].flatten(1).T) < 1e-5
    encoder.image_embedding_size = (3, 5)
    assert embed_grid(encoder).shape[0] == 15


def test_prompts_and_positions_are_embedded_as_by_the_stock_prompt_encoder(random_sam: BuildSam) -> None:
    encoder = random_sam().prompt_encoder
    boxes = boxes_of(1, 5, 64, 64)[0]
    assert difference(embed_boxes(encoder, boxes), encoder(None, boxes, None)[0]) < 1e-5
    assert difference(embed_grid(encoder), encoder.get_dense_pe()[0].flatten(1).T) < 1e-5


@pytest.mark.parametrize("shape", [(64, 64), (64, 40), (30, 50), (200, 130), (128, 128)])
def test_logits_equal_those_of_the_stock_modules_for_any_image_shape(
    random_sam: BuildSam, shape: tuple[int, int]
) -> None:
    sam = random_sam()
    images, boxes = torch.rand(2, 3, *shape), boxes_of(2, 3, *shape)
    with torch.no_grad():
        network = PromptableSam(sam)
        logits = network(images, boxes)
        _, quality = network.decode(network.encode(images), boxes, shape)
        set_attention(sam, "stock")
        for image, image_boxes, ours, our_quality in zip(images, boxes, logits, quality, strict=True):
            theirs, their_quality = stock(sam, image, image_boxes)
            assert ours.shape == theirs.shape
            assert difference(ours, theirs) < 1e-4  # the whole encoder's rounding lies in between
            assert difference(our_quality, their_quality) < 1e-4


def test_a_batch_equals_its_images_one_by_one(random_sam: BuildSam) -> None:
    network = PromptableSam(random_sam())
    images, boxes = torch.rand(3, 1, 50, 64), boxes_of(3, 2, 50, 64)
    with torch.no_grad():
        together = network(images, boxes)
        for index in range(3):
            alone = network(images[index : index + 1], boxes[index : index + 1])[0]
            assert difference(together[index], alone) < 1e-5


def test_one_channel_is_the_same_as_three_equal_ones(random_sam: BuildSam) -> None:
    network = PromptableSam(random_sam())
    image = torch.rand(1, 1, 40, 56)
    with torch.no_grad():
        assert difference(network(image), network(image.expand(-1, 3, -1, -1))) < 1e-5


def test_no_boxes_mean_the_whole_image(random_sam: BuildSam) -> None:
    network = PromptableSam(random_sam())
    image = torch.rand(2, 1, 40, 56)
    with torch.no_grad():
        assert torch.equal(network(image), network(image, torch.tensor([[0, 0, 56, 40]] * 2)))


def test_metadata_of_the_image_is_kept(random_sam: BuildSam) -> None:
    image = MetaTensor(torch.rand(1, 1, 40, 56), meta={"filename_or_obj": "slice.nii.gz"})
    with torch.no_grad():
        logits = PromptableSam(random_sam())(image)
    assert isinstance(logits, MetaTensor)
    assert logits.meta["filename_or_obj"] == "slice.nii.gz"


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.rand(1, 40, 56), r"\(1, 40, 56\)"),
        (torch.rand(0, 1, 40, 56), r"none of it 0, got \(0, 1, 40, 56\)"),
        (torch.rand(1, 1, 40, 0), r"none of it 0, got \(1, 1, 40, 0\)"),
        (torch.rand(1, 2, 40, 56), r"\(1, 2, 40, 56\)"),
        (torch.zeros(1, 1, 40, 56, dtype=torch.uint8), "uint8"),
    ],
)
def test_wrong_images_are_refused(random_sam: BuildSam, image: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PromptableSam(random_sam())(image)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([0.0, 0, 10, 10], r"\(4,\)"),
        ([[0.0, 0, 10, 10, 1]], r"\(1, 5\)"),
        ([[[0.0, 0, 10, 10]]] * 2, "batch of 1, got 2"),
        ([[10.0, 0, 5, 10]], "inverted"),
        ([[10.0, 0, 10, 10]], "empty"),
        ([[[0, 0, 10, 10], [60.0, 0, 70, 10]]], r"index \(0, 1\).*56 columns and 40 rows"),
        ([[0.0, 0, float("nan"), 10]], "not finite"),
        ([[0.0, 0, float("inf"), 10]], "not finite"),
    ],
)
def test_wrong_boxes_are_refused(random_sam: BuildSam, boxes: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PromptableSam(random_sam())(torch.rand(1, 1, 40, 56), torch.tensor(boxes))


def test_an_image_without_a_box_is_refused(random_sam: BuildSam) -> None:
    with pytest.raises(ValueError, match=r"at least one an image, got \(1, 0, 4\)"):
        PromptableSam(random_sam())(torch.rand(1, 1, 40, 56), torch.zeros(1, 0, 4))


@pytest.mark.parametrize("shape", [(1, 256, 8, 8), (1, 128, 16, 16), (128, 8, 8)])
def test_an_embedding_of_another_sam_or_image_size_is_refused(random_sam: BuildSam, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"shape \(B, 128, 8, 8\), got .*encode the image with this network"):
        PromptableSam(random_sam()).decode(torch.rand(shape), None, (64, 64))


def test_tracing_gives_the_same_logits_for_other_boxes(two_blocks: Sam) -> None:
    network = PromptableSam(two_blocks)
    image, boxes = torch.rand(2, 1, 50, 64), boxes_of(4, 2, 50, 64)
    with torch.no_grad():
        traced = torch.jit.trace(network, (image, boxes[:2]))
        assert difference(traced(image.flip(0), boxes[2:]), network(image.flip(0), boxes[2:])) < 1e-5


def test_compiling_captures_one_graph_with_the_same_logits(two_blocks: Sam) -> None:
    network = PromptableSam(two_blocks)
    image, boxes = torch.rand(2, 1, 50, 64), boxes_of(2, 2, 50, 64)
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(network, fullgraph=True, backend="eager")
        assert difference(compiled(image, boxes), network(image, boxes)) < 1e-5


def test_half_precision_gives_float32_logits_near_the_exact_ones(random_sam: BuildSam) -> None:
    network = PromptableSam(random_sam())
    image = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        exact = network(image)
        with torch.autocast("cpu", torch.bfloat16):
            under_autocast = network(image)
        for logits in (under_autocast, network.to(torch.bfloat16)(image)):
            assert logits.dtype == torch.float32
            assert F.cosine_similarity(logits.flatten(), exact.flatten(), dim=0) > 0.95


@pytest.mark.parametrize("replaced", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients_and_survives_copying(
    random_sam: BuildSam, replaced: bool
) -> None:
    network = PromptableSam(random_sam()).train()
    set_gradient_checkpointing(network.sam, True)
    if replaced:  # as an adapter that takes a block's place afterwards
        network.sam.image_encoder.blocks[1] = torch.nn.Sequential(network.sam.image_encoder.blocks[1])
    image = torch.rand(1, 1, 64, 64)
    runs: list[int] = []
    gradients = []
    for candidate, enabled in (
        (network, True),
        (copy.deepcopy(network), True),
        (pickle.loads(pickle.dumps(network)), True),
        (network, False),
    ):
        set_gradient_checkpointing(candidate.sam, enabled)
        count: list[int] = []
        hook = candidate.sam.image_encoder.blocks[1].register_forward_pre_hook(lambda *_, count=count: count.append(1))
        (gradient,) = torch.autograd.grad(candidate(image).square().mean(), candidate.sam.image_encoder.pos_embed)
        hook.remove()
        runs.append(len(count))
        gradients.append(gradient)
    assert runs == [2, 2, 2, 1]
    for gradient in gradients[:3]:
        assert difference(gradient, gradients[3]) < 1e-5


@pytest.mark.parametrize("with_boxes", [True, False], ids=["box and points", "points alone"])
def test_points_equal_those_of_the_stock_modules(random_sam: BuildSam, with_boxes: bool) -> None:
    sam = random_sam()
    network = PromptableSam(sam)
    shape = (30, 50)
    image = torch.rand(1, 3, *shape)
    pixels = torch.tensor([[[10, 5], [40, 20]], [[3, 29], [0, 0]]])  # columns and rows
    labels = torch.tensor([[1, 0], [1, 1]])
    boxes = boxes_of(1, 2, *shape)[0] if with_boxes else None
    with torch.no_grad():
        embedding = network.encode(image)
        ours, quality = network.decode(
            embedding, None if boxes is None else boxes[None], shape, pixels[None] + 0.5, labels[None]
        )
        # segment_anything's ResizeLongestSide.apply_coords on the pixels' centres
        theirs_points = (pixels + 0.5) * torch.tensor((64 / 50, 38 / 30)) - 0.5
        in_frame = None if boxes is None else boxes_to_sam_frame(boxes, shape, 64)
        sparse, dense = sam.prompt_encoder(points=(theirs_points, labels), boxes=in_frame, masks=None)
        low, their_quality = sam.mask_decoder(embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense, False)
        theirs = sam.postprocess_masks(low, (38, 64), shape)
    assert difference(ours[0], theirs[:, 0]) < 1e-4
    assert difference(quality[0], their_quality[:, 0]) < 1e-4


def test_points_that_are_none_stand_for_no_prompt_at_all(random_sam: BuildSam) -> None:
    network = PromptableSam(random_sam())
    embedding = network.encode(torch.rand(1, 1, 40, 56))
    points = torch.tensor([[[[12.0, 7.0], [500.0, -3.0]]]])
    padded, _ = network.decode(embedding, None, (40, 56), points, torch.tensor([[[1, -1]]]))
    elsewhere, _ = network.decode(embedding, None, (40, 56), points.abs() / 13, torch.tensor([[[1, -1]]]))
    moved, _ = network.decode(embedding, None, (40, 56), points, torch.tensor([[[0, -1]]]))
    assert torch.isfinite(padded).all()
    assert not torch.allclose(padded, elsewhere)
    assert not torch.allclose(padded, moved)


@pytest.mark.parametrize(
    ("points", "labels", "boxes", "message"),
    [
        ([[[1.0, 2.0]]], [[1]], None, r"\(1, 1, 2\)"),
        ([[[[1.0, 2.0]]]], [[[2]]], None, r"got \[2\]"),
        ([[[[1.0, 2.0]]]], None, None, "one label a point"),
        ([[[[57.0, 2.0]]]], [[[0]]], None, "outside an image of 56 columns and 40 rows"),
        ([[[[float("nan"), 2.0]]]], [[[0]]], None, "outside"),
        ([[[[1.0, 2.0]]]], [[[1]]], [[[0.0, 0, 9, 9], [0, 0, 9, 9]]], "as many boxes as groups of points, got 2 and 1"),
        (None, [[[1]]], None, "labels alone"),
    ],
)
def test_wrong_points_are_refused(random_sam: BuildSam, points: list, labels: list, boxes: list, message: str) -> None:
    network = PromptableSam(random_sam())
    as_tensor = [None if value is None else torch.tensor(value) for value in (boxes, points, labels)]
    with pytest.raises(ValueError, match=message):
        network.decode(torch.zeros(1, 128, 8, 8), as_tensor[0], (40, 56), *as_tensor[1:])


def test_encoding_step_by_step_ends_with_the_same_embedding(random_sam: BuildSam) -> None:
    network = PromptableSam(random_sam())
    image = torch.rand(2, 1, 40, 56)
    steps = list(network.encode_stepwise(image))
    assert [features.depth for features in steps] == list(range(10))
    with torch.no_grad():
        assert torch.equal(steps[-1].values, network.encode(image))
