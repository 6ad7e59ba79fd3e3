"""SAM as it is used here: building it, its checkpoints and sizes, exact fused attention, and the promptable network."""

from monai_cobot.networks.attention import FusedAttention
from monai_cobot.networks.backends import AcceleratedSam, BackendChoice, BackendError, accelerate
from monai_cobot.networks.block import FusedBlock, set_attention
from monai_cobot.networks.checkpoint import base_weights_sha256, load_checkpoint, load_into
from monai_cobot.networks.class_head import ClassHead, class_head_of
from monai_cobot.networks.decoding import decode_masks
from monai_cobot.networks.encoder import ImageEncoder, frozen_depth, set_gradient_checkpointing
from monai_cobot.networks.promptable import FrozenFeatures, PromptableSam
from monai_cobot.networks.sam import build_sam, build_sam_without_weights
from monai_cobot.networks.saving import save_network
from monai_cobot.networks.variants import VARIANTS, SamVariant

__all__ = [
    "VARIANTS",
    "AcceleratedSam",
    "BackendChoice",
    "BackendError",
    "ClassHead",
    "FrozenFeatures",
    "FusedAttention",
    "FusedBlock",
    "ImageEncoder",
    "PromptableSam",
    "SamVariant",
    "accelerate",
    "base_weights_sha256",
    "build_sam",
    "build_sam_without_weights",
    "class_head_of",
    "decode_masks",
    "frozen_depth",
    "load_checkpoint",
    "load_into",
    "save_network",
    "set_attention",
    "set_gradient_checkpointing",
]
