"""What MONAI Label calls: inference with an adapter, training one, and choosing what to label next."""

from __future__ import annotations

import logging
import random
import tempfile
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import HTTPException
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.tasks.activelearning.random import Random

from monai_cobot.data import write_label_map
from monai_cobot.inferers import AdaptedSam, Cancelled, CancelToken, EmbeddingCache, VolumeSession, segment_prompt
from monai_cobot.label.models import Models
from monai_cobot.label.prompts import read_prompt
from monai_cobot.label.training import (
    OPTIONS,
    LabelledImage,
    Orders,
    check_options_of_training,
    images_of_labels,
    new_adapter_name,
    refuse_programs,
    validation_dsc,
    wanted_labels,
)
from monai_cobot.label.uncertainty import image_uncertainty
from monai_cobot.label.versions import list_versions
from monai_cobot.label.volumes import OpenVolumes, identity
from monai_cobot.peft import AdapterConfig

__all__ = [
    "CANCEL",
    "FOLDER",
    "AdapterInference",
    "AdapterTraining",
    "RandomStrategy",
    "UncertaintyStrategy",
    "load_model",
]

logger = logging.getLogger(__name__)

CANCEL: ContextVar[CancelToken | None] = ContextVar("cancel", default=None)
"""Stops the work for this request, where its client is gone."""

FOLDER: ContextVar[Path | None] = ContextVar("folder", default=None)
"""Where the image that came with this request is, and where its answer is written; it is gone after the reply."""

_WRITTEN = (".nii.gz", ".nii", ".nrrd", ".mha", ".png")
_FOUND = 1


def load_model(models: Models, name: str) -> AdaptedSam:
    """A model for a request.

    Raises:
        HTTPException: 404 where there is none of the name, 422 where it cannot be used, 500 where PyTorch fails.
    """
    try:
        return models.load(name)
    except KeyError:
        raise HTTPException(404, f"there is no model {name!r}; there are {', '.join(models.names())}.") from None
    except (ValueError, OSError) as error:
        raise HTTPException(422, f"the model {name!r} cannot be used: {error}") from error
    except RuntimeError as error:  # such as too little memory
        raise HTTPException(500, f"the model {name!r} cannot be loaded: {error}") from error


class _Answering:
    """Knows whether someone waits who drew a prompt."""

    def __init__(self) -> None:
        self._count = 0
        self._nobody = threading.Condition()

    @contextmanager
    def someone(self) -> Iterator[None]:
        """Someone waits as long as this block runs."""
        with self._nobody:
            self._count += 1
        try:
            yield
        finally:
            with self._nobody:
                self._count -= 1
                self._nobody.notify_all()

    def wait_for_nobody(self, seconds: float) -> bool:
        """Wait until nobody waits, or so long; whether nobody does."""
        with self._nobody:
            return self._nobody.wait_for(lambda: self._count == 0, seconds)


_answering = _Answering()


class _GivesWay(CancelToken):
    """A token for work that nobody looks at: where it would see whether it is cancelled, it lets those go first who
    wait for a mask."""

    def __init__(self, asked: CancelToken | None) -> None:
        super().__init__()
        self._asked = asked or CancelToken()

    @property
    def cancelled(self) -> bool:
        return self._asked.cancelled

    def check(self) -> None:
        self._asked.check()
        while not _answering.wait_for_nobody(0.1):
            self._asked.check()


class AdapterInference(InferTask):
    """One adapter, or the SAM as it is, with prompts.

    What is asked for, and how, is said in :mod:`monai_cobot.label.prompts`. Besides, ``params`` may hold ``preset``
    (intensities; without, the adapter's own), ``label`` (the structure's name, which comes back), and how the answer
    is to be: ``result_extension`` (.nii.gz, .nii, .nrrd, .mha, .png; without, the image's), ``result_compress`` (of
    .nrrd and .mha; without, not) and ``result_crop``: the part of the grid that the object is in instead of all of
    it, and no image where nothing was found. The label map is uint8, 1 in the object.

    Args:
        name: of the adapter in ``models``.
        config: of the adapter; None for the SAM as it is.
        models: what can segment.
        volumes: that clients work on.
        in_slices: a model of two dimensions, for clients that ask for a slice only of these.
    """

    def __init__(
        self, name: str, config: AdapterConfig | None, models: Models, volumes: OpenVolumes, in_slices: bool = False
    ) -> None:
        labels = [] if config is None else sorted(config.labels, key=config.labels.__getitem__)
        what = "SAM without an adapter" if config is None else f"{config.method} over {config.variant}"
        super().__init__(
            type=InferType.DEEPGROW,  # what MONAI Label's clients offer boxes and points for
            labels=labels,
            dimension=2 if in_slices else 3,
            description=f"{what}; a box or points, {'in one slice' if in_slices else 'in a slice or in 3D'}",
        )
        self._name = name
        self._models = models
        self._volumes = volumes
        self._in_slices = in_slices

    def info(self) -> dict[str, Any]:
        """As MONAI Label's, and in two dimensions the name of the same model in three."""
        return {**super().info(), **({"in_slices_of": self._name} if self._in_slices else {})}

    def is_valid(self) -> bool:
        """Adapters that cannot be used are not listed to begin with."""
        return True

    def __call__(self, request: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
        """Segment.

        Args:
            request: ``image``, a file or a folder with a DICOM series, and the params.

        Returns:
            The file of the label map, which the caller removes, and what is told of it.

        Raises:
            HTTPException: 422 for a request that cannot be done, with the reason.
        """
        with _answering.someone():
            return self._answer(request)

    def _answer(self, request: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
        begun = time.perf_counter()
        image, preset = Path(request["image"]), request.get("preset")
        model = load_model(self._models, self._name)
        label, cancel = self._volumes.new_label(), CANCEL.get()
        try:
            if not (preset is None or isinstance(preset, str)):
                raise ValueError(f"preset is {preset!r}; the name of an intensity preset is expected.")
            ending = _ending(request.get("result_extension"), image)
            session = self._volumes.session(image, model, preset)
            prompt = read_prompt(request, session.volume.source_shape, self._in_slices)
            try:
                segment_prompt(session, prompt, label, cancel)
                found = session.crop(label)
                file = _write(found, session, image, ending, request)
            finally:
                if label in session.objects:
                    session.remove(label)
        except Cancelled:
            raise HTTPException(499, "The client is gone.") from None
        except (ValueError, FileNotFoundError) as error:
            raise HTTPException(422, str(error).replace(str(image), image.name)) from error
        except (OSError, RuntimeError) as error:
            raise HTTPException(500, f"The inference failed: {error}") from error
        return file, {
            "label_names": {str(request.get("label") or "object"): _FOUND},
            "voxels": 0 if found is None else int(np.count_nonzero(found[1])),
            "latencies": {"total": round(time.perf_counter() - begun, 4)},
        }


def _ending(wanted: Any, image: Path) -> str:
    if wanted is None:
        named = image.name.lower()
        if named.endswith((".jpg", ".jpeg")):
            return ".png"
        return next((ending for ending in _WRITTEN if named.endswith(ending)), ".nii.gz")
    if wanted not in _WRITTEN:
        raise ValueError(f"result_extension is {wanted!r}; masks are written as {', '.join(_WRITTEN)}.")
    return str(wanted)


def _write(found: Any, session: VolumeSession, image: Path, ending: str, request: Mapping[str, Any]) -> str | None:
    """The label map as a file: of the whole grid, or of the part that was found."""
    affine = session.volume.source_affine
    if request.get("result_crop"):
        if found is None:
            return None
        region, array = found
        grid = array.astype(np.uint8)
        affine = affine.copy()
        affine[:3, 3] = (affine @ (*region.low, 1))[:3]
    else:
        grid = np.zeros(session.volume.source_shape, dtype=np.uint8)
        if found is not None:
            region, array = found
            grid[region.slices] = array
    with tempfile.NamedTemporaryFile(suffix=ending, prefix="cobot_", dir=FOLDER.get(), delete=False) as file:
        path = Path(file.name)
    try:
        write_label_map(grid, affine, path, compress=bool(request.get("result_compress", False)))
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return str(path)


class AdapterTraining(TrainTask):
    """Trains an adapter anew from the labels on the server; the SAM as it is gets a new adapter.

    Args:
        name: of the model.
        config: of its adapter; None for the SAM as it is.
        models: what can segment.
        train_config: the bundle's ``train.json``.
    """

    def __init__(self, name: str, config: AdapterConfig | None, models: Models, train_config: Path) -> None:
        what = "Trains a new adapter" if config is None else "Trains its next version"
        super().__init__(f"{what} from the labels on the server")
        self._name = name
        self._config = config
        self._models = models
        self._train_config = train_config

    def config(self) -> dict[str, Any]:
        """What clients show to be changed: the bundle's usual values."""
        return {"epochs": 25, "batch_size": 8, "min_foreground": 100, "seed": 0}

    def stats(self) -> dict[str, Any]:
        """Validation DSC and version of what is in use."""
        if self._config is None:
            return {}
        versions = list_versions(self._models.folder / self._name)
        return {
            "best_metric": validation_dsc(self._config) or 0.0,
            "epoch": int(self._config.details.get("epoch") or 0),
            "versions": versions,
        }

    def orders(self, request: Mapping[str, Any], images: list[LabelledImage], reserved: Collection[str] = ()) -> Orders:
        """What a request asks for.

        Args:
            request: the options of :data:`monai_cobot.label.training.OPTIONS`; ``labels``, the names to train on; for
                a new adapter its ``name``, and what it is to be.
            images: with labels, on the server.
            reserved: names of adapters that are going to be trained.

        Raises:
            HTTPException: 422 where it cannot be done, with the reason.
        """
        options = {name: value for name, value in request.items() if name not in _OF_CLIENTS}
        try:
            names, name = options.pop("labels", None), options.pop("name", None)
            if names is not None and not (
                names and isinstance(names, list) and all(isinstance(one, str) for one in names)
            ):
                raise ValueError(f"labels is {names!r}; a list of names is expected.")
            check_options_of_training(options, is_new=self._config is None)
            images = images_of_labels(images, self._config)
            if len(images) < 2:
                raise ValueError(
                    f"training and validation need labels of at least two images; the server has {len(images)}. "
                    "Submit more labels."
                )
            labels = wanted_labels(images, self._config, names)
            options = {**self._of_adapter(), **options}
            refuse_programs(options)
            return Orders(
                adapter=str(self._folder(name, labels, reserved)),
                train_config=str(self._train_config),
                options=options,
                labels=labels,
                images=images,
            )
        except ValueError as error:
            raise HTTPException(422, str(error)) from error

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """MONAI Label's own way of training, which is not used: the server starts a process for the orders."""
        raise HTTPException(422, "Trainings are started over HTTP (POST /train/), and run in the background.")

    def _folder(self, name: Any, labels: dict[str, int] | None, reserved: Collection[str]) -> Path:
        if self._config is not None:
            if name not in (None, self._name):
                raise ValueError(f"this trains the adapter {self._name}; a new one, {name!r}, comes of the SAM alone.")
            return self._models.folder / self._name
        taken = {*self._models.names(), *(path.name for path in self._models.folder.glob("*")), *reserved}
        if name is None:
            return self._models.folder / new_adapter_name(labels or (), taken)
        if not isinstance(name, str) or Path(name).name != name or name.startswith(".") or not name:
            raise ValueError(
                f"{name!r} cannot be the name of an adapter: names are not empty, have no slash, and no dot in front."
            )
        if name in taken:
            going = "is going to be trained" if name in reserved else "exists"
            raise ValueError(f"{name} {going} already: train that model, or choose another name.")
        return self._models.folder / name

    def _of_adapter(self) -> dict[str, Any]:
        """Options of the bundle that the adapter decides, or the SAM."""
        models, config = self._models, self._config
        variant = models.variant if config is None else config.variant
        checkpoint = models.checkpoint if variant == models.variant else None
        options = {
            "sam_variant": variant,
            "sam_checkpoint": None if checkpoint is None else str(checkpoint),
            "device": models.device,
        }
        if config is None:
            return {**options, "image_size": models.image_size}
        return {
            **options,
            "image_size": config.image_size,
            "method": config.method,
            "method_options": {**config.method_options, **(config.orchestration or {})},
            "orchestrate": config.orchestration is not None,
            "decoder": config.decoder,
            "preset": config.preset,
            "axis": config.details.get("axis", "axial"),
        }


_OF_CLIENTS = ("model", "client_id", "device", "gpus", "multi_gpu", "local_rank")
"""What MONAI Label and its clients put into a request besides."""

assert not set(_OF_CLIENTS) & set(OPTIONS)


class RandomStrategy(Random):
    """MONAI Label's: an image without a label by chance, rather one that was not asked for lately."""

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Choose the next image; None where all have labels."""
        try:
            chosen: dict[str, Any] | None = super().__call__(request, datastore)
        except ValueError:  # all of them were asked for within this second, which MONAI Label does not foresee
            left = datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels"))
            chosen = {"id": random.choice(left), "weight": 0}
        return chosen


class UncertaintyStrategy(Strategy):
    """The image without a label that a model is least sure of: see :mod:`monai_cobot.label.uncertainty`.

    Of many images, some are drawn at random; what was computed is kept until the image or the adapter changes. It goes
    on only while nobody waits for a mask, and ends when its client is gone.

    Args:
        models: what can segment.
        cache: of embeddings.
    """

    MOST_IMAGES = 20

    def __init__(self, models: Models, cache: EmbeddingCache) -> None:
        super().__init__("The image that the model is least sure of: mean entropy of its predictions on three slices")
        self._models = models
        self._cache = cache
        self._known: dict[tuple[Any, ...], float] = {}

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Choose the next image.

        Args:
            request: ``model``, by its name; without, the first.
            datastore: the studies.

        Returns:
            ``id`` of the image and its ``uncertainty`` in bits, 0 to 1; empty where all images have labels, or none can
            be read.

        Raises:
            HTTPException: there is no such model, it cannot be used, the client is gone (499), or no image at all could
                be fetched.
        """
        names, cancel = self._models.names(), _GivesWay(CANCEL.get())
        name = str(request.get("model") or next(iter(names)))
        model = load_model(self._models, name)
        config = names.get(name)
        images = sorted(datastore.get_unlabeled_images())
        if len(images) > self.MOST_IMAGES:
            images = sorted(random.sample(images, self.MOST_IMAGES))
        found: dict[str, float] = {}
        refused: HTTPException | None = None
        for image in images:
            try:
                path = Path(datastore.get_image_uri(image))
                key = (identity(path), name, config and config.weights_sha256)
                if key not in self._known:
                    with VolumeSession(path, model, cache=self._cache, look_ahead=False, keep_undo=False) as session:
                        self._known[key] = image_uncertainty(session, cancel=cancel)
            except Cancelled:
                logger.info("Choosing what to label next ends at %s, for its client is gone.", image)
                raise HTTPException(499, "The client is gone.") from None
            except HTTPException as error:  # a series that cannot be fetched costs none of the others
                logger.warning("%s is passed over in choosing what to label next: %s", image, error.detail)
                refused = error
                continue
            except (ValueError, OSError) as error:  # an image that cannot be read is not one to label
                logger.warning("%s is passed over in choosing what to label next: %s", image, error)
                continue
            found[image] = self._known[key]
        if not found:
            if refused is not None:
                raise refused
            return {}
        chosen = max(found, key=found.__getitem__)
        return {"id": chosen, "uncertainty": found[chosen]}
