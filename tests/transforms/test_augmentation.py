"""Which transforms let no image be kept."""

from typing import Any

from monai.transforms import Compose, Lambdad, MapTransform, RandFlipd, RandomizableTrait, ScaleIntensityd

from monai_cobot.transforms import RandJitterBoxd, ResizeLongestSided
from monai_cobot.transforms.augmentation import image_augmentations


class BlurredByAnotherLibraryd(MapTransform, RandomizableTrait):
    """Random as MONAI's RandTorchVisiond and RandCuCIMd: its numbers are drawn elsewhere."""

    def __call__(self, data: Any) -> dict[Any, Any]:
        return dict(data)


def test_all_that_may_change_an_image_at_random_is_named_and_nothing_else() -> None:
    steady = [ResizeLongestSided(64), RandJitterBoxd(), ScaleIntensityd("image"), BlurredByAnotherLibraryd("label")]
    assert image_augmentations(Compose(steady)) == []
    changing = [RandFlipd("image"), Compose([BlurredByAnotherLibraryd("image")]), Lambdad("image", lambda image: image)]
    assert image_augmentations(Compose([*steady, *changing])) == ["RandFlipd", "BlurredByAnotherLibraryd", "Lambdad"]
