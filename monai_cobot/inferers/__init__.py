"""How the network is run: in training, and from prompts on a volume to masks of it."""

from monai_cobot.inferers.adapters import AdaptedSam, AdapterShelf
from monai_cobot.inferers.cancel import Cancelled, CancelToken
from monai_cobot.inferers.embedding_cache import EmbeddingCache
from monai_cobot.inferers.frozen_features import FrozenFeatureInferer, open_feature_cache
from monai_cobot.inferers.grid import Region, region_from_source, region_to_source, slice_axis_from_source
from monai_cobot.inferers.prediction import SlicePrediction
from monai_cobot.inferers.prompts import Point, SlicePrompts
from monai_cobot.inferers.propagation import EndRules
from monai_cobot.inferers.sams import SamCollection, default_device
from monai_cobot.inferers.session import VolumeSession
from monai_cobot.inferers.slice_encoder import guess_preset
from monai_cobot.inferers.voxel_prompts import VoxelPrompt, segment_prompt

__all__ = [
    "AdaptedSam",
    "AdapterShelf",
    "CancelToken",
    "Cancelled",
    "EmbeddingCache",
    "EndRules",
    "FrozenFeatureInferer",
    "Point",
    "Region",
    "SamCollection",
    "SlicePrediction",
    "SlicePrompts",
    "VolumeSession",
    "VoxelPrompt",
    "default_device",
    "guess_preset",
    "open_feature_cache",
    "region_from_source",
    "region_to_source",
    "segment_prompt",
    "slice_axis_from_source",
]
