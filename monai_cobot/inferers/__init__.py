"""How the network is run."""

from monai_cobot.inferers.frozen_features import FrozenFeatureInferer, open_feature_cache

__all__ = ["FrozenFeatureInferer", "open_feature_cache"]
