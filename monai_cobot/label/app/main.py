"""The app that MONAI Label's server runs: ``python -m monailabel.main start_server --app FOLDER --studies DIR``.

The folder is that of this file, or any other with a copy of it; MONAI Label keeps its log there. What can be set with
``--conf NAME VALUE`` are the attributes of :class:`~monai_cobot.label.server.Settings`.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Collection, Container
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.strategy import Strategy

import monai_cobot
from monai_cobot.inferers import EmbeddingCache
from monai_cobot.label.dicom_studies import open_dicom_studies
from monai_cobot.label.models import Models
from monai_cobot.label.prompts import PROTOCOL
from monai_cobot.label.server import Settings
from monai_cobot.label.studies import Studies, labelled_images
from monai_cobot.label.tasks import FOLDER, AdapterInference, AdapterTraining, RandomStrategy, UncertaintyStrategy
from monai_cobot.label.training import Orders
from monai_cobot.label.volumes import OpenVolumes

logger = logging.getLogger(__name__)


class CobotApp(MONAILabelApp):
    """Adapters as models.

    Attributes:
        incoming: folder of the images that come with requests, each gone after the reply to it.

    Args:
        app_dir: MONAI Label's folder for the app.
        studies: folder of the images, or the address of a DICOM server.
        conf: name -> value, as given on the command line.

    Raises:
        ValueError: a setting is unknown or cannot be used, such as a device that is not there.
        OSError: the checkpoint cannot be read, or the server's own folder cannot be written.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self._settings = Settings.read(conf, studies, app_dir)
        self._models = Models(
            self._settings.adapters,
            self._settings.sam_variant,
            self._settings.sam_checkpoint,
            self._settings.image_size,
            self._settings.device,
            self._settings.precision,
            self._settings.backend,
        )
        self._models.prepare()
        self._cache = EmbeddingCache(self._settings.cache_gb, self._settings.cache_dir, self._settings.cache_disk_gb)
        self._volumes = OpenVolumes(self._cache, look_ahead=self._settings.look_ahead)
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name="COBOT",
            description="Segment Anything with adapters: boxes and points, in slices and in 3D",
            version=monai_cobot.__version__,
        )
        self._look_for_adapters()
        self.incoming = self._settings.work / "incoming"
        shutil.rmtree(self.incoming, ignore_errors=True)  # of a server that was killed
        self.incoming.mkdir(parents=True, mode=0o700, exist_ok=True)

    def init_datastore(self) -> Datastore:
        """The folder of studies, or those of a DICOM server."""
        if self.studies.startswith(("http://", "https://")):
            return open_dicom_studies(self.studies)
        return Studies(
            self.studies,
            settings.MONAI_LABEL_DATASTORE_FILE_EXT,
            settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )

    def init_strategies(self) -> dict[str, Strategy]:
        """What to label next."""
        return {"uncertainty": UncertaintyStrategy(self._models, self._cache), "random": RandomStrategy()}

    def on_init_complete(self) -> None:
        """Called by the server when it starts."""
        super().on_init_complete()
        from monailabel.app import app as web

        from monai_cobot.label.endpoints import attach

        attach(web, self._settings.host, self._settings.allow_origins)

    def info(self) -> dict[str, Any]:
        """What the server has, adapters as they are now, and under ``cobot`` what its clients check: this package's
        version, and the number of its prompts (:data:`~monai_cobot.label.prompts.PROTOCOL`)."""
        self._look_for_adapters()
        info: dict[str, Any] = super().info()
        info["cobot"] = {"version": monai_cobot.__version__, "prompts": PROTOCOL}
        return info

    def infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Segment in one image.

        Args:
            request: ``model``, ``image`` and the params.
            datastore: the studies; None for the app's own.

        Raises:
            HTTPException: there is no such model or image, or the request cannot be done.
        """
        self._look_for_adapters()
        studies = self._datastore if datastore is None else datastore
        name, image = _name_in(self._infers, str(request.get("model"))), str(request.get("image"))
        task = self._infers.get(name)
        if task is None:
            raise HTTPException(404, f"there is no model {name!r}; there are {', '.join(self._infers)}.")
        file, params = task({**request, "image": self._file_of(image, studies)})
        label = file
        if file is not None and request.get("save_label") and image in studies.list_images():
            tag = request.get("label_tag", DefaultLabelTag.ORIGINAL)
            label = studies.save_label(image, file, tag, {"model": name, "params": params})
        return {"label": label, "tag": DefaultLabelTag.ORIGINAL, "file": file, "params": params}

    def orders_of(self, model: str, request: dict[str, Any], reserved: Collection[str] = ()) -> tuple[Path, Orders]:
        """What to train, and the folder for it, which is that of the adapter alone.

        Args:
            model: by its name.
            request: as :meth:`~monai_cobot.label.tasks.AdapterTraining.orders` takes it.
            reserved: names of adapters that are going to be trained.

        Raises:
            HTTPException: there is no such model, or the request cannot be done.
        """
        self._look_for_adapters()
        model = _name_in(self._trainers, model)
        if model not in self._trainers:
            known = ", ".join(self._trainers) or "none, for the bundle is not there (train_config)"
            raise HTTPException(404, f"there is no model {model!r} to train; there are {known}.")
        orders = self._trainers[model].orders(request, labelled_images(self._datastore), reserved)
        return self._settings.work / "training" / Path(orders.adapter).name, orders

    def _look_for_adapters(self) -> None:
        names = self._models.names()
        infers = {name: AdapterInference(name, config, self._models, self._volumes) for name, config in names.items()}
        for name, config in names.items():
            infers.setdefault(
                f"{name}_slices", AdapterInference(name, config, self._models, self._volumes, in_slices=True)
            )
        self._infers = infers
        if settings.MONAI_LABEL_TASKS_TRAIN and self._settings.train_config.is_file():
            self._trainers = {
                name: AdapterTraining(name, config, self._models, self._settings.train_config)
                for name, config in names.items()
            }

    def _file_of(self, image: str, studies: Datastore) -> str:
        """The file of an image: one of the studies, of a session, or one that was sent along."""
        if image in studies.list_images():
            return str(studies.get_image_uri(image))
        folders = [FOLDER.get(), None if self._sessions is None else self._sessions.store_path]
        real = os.path.realpath(image)
        if any(folder is not None and real.startswith(os.path.realpath(folder) + os.sep) for folder in folders):
            return real
        raise HTTPException(404, f"there is no image {image!r} in the studies.")


def _name_in(known: Container[str], name: str) -> str:
    """A name as it is known: MONAI Label's client writes a blank in a path as +."""
    return name if name in known else name.replace("+", " ")
