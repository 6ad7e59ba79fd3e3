"""A folder of studies that stays whole: nothing is written outside it, or half."""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from fastapi import HTTPException
from filelock import FileLock
from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.exception import ImageNotFoundException

from monai_cobot.data import read_volume
from monai_cobot.data.cases import Case, CaseError, MaskFile, check_same_grid, load_case
from monai_cobot.files import stamp_of, write_atomically
from monai_cobot.label.training import LabelledImage

__all__ = ["Studies", "labelled_images"]

logger = logging.getLogger(__name__)

_CONFIG = "datastore_v2.json"
UNKNOWN = "UNK"
"""What MONAI Label tells its clients where a DICOM series lacks an attribute."""

_Result = TypeVar("_Result")
_Arguments = ParamSpec("_Arguments")


def _one_at_a_time(
    method: Callable[Concatenate[Studies, _Arguments], _Result],
) -> Callable[Concatenate[Studies, _Arguments], _Result]:
    """A method of MONAI Label that reads or changes the list in place, with the list held."""

    @functools.wraps(method)
    def held(self: Studies, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        with self._guard:
            return method(self, *args, **kwargs)

    return held


class Studies(LocalDatastore):
    """MONAI Label's local datastore, for several clients at once and a process that may be killed at any time.

    Images and labels are copied beside their place and then moved into it, and so is the list of them. Names that
    lead out of the folder are refused, and so are files that are no image, or no label of their image.

    Args:
        path: the folder.
        extensions: patterns of images' names.
        auto_reload: whether files that are put there by others are noticed.
        read_only: whether the list is left alone at the start.
    """

    def __init__(self, path: str, extensions: list[str], auto_reload: bool, read_only: bool) -> None:
        self._guard = threading.RLock()
        _put_damaged_list_aside(Path(path) / _CONFIG)
        super().__init__(path, extensions=extensions, auto_reload=auto_reload, read_only=read_only)
        if auto_reload:
            self._watch_images_and_labels_alone()

    def _watch_images_and_labels_alone(self) -> None:
        """MONAI Label watches all folders below, also that of the server: what every request writes there cost more
        time, of the one thread that Python runs at a time, than the mask that it asked for."""
        self._observer.unschedule_all()
        self._observer.schedule(self._handler, self._datastore.image_path(), recursive=False)
        self._observer.schedule(self._handler, self._datastore.label_path(None), recursive=True)

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Keep an image under a name. Where one of this name and grid is there, that one stays.

        Raises:
            HTTPException: 422 for a name or file that cannot be used, 409 where another image has the name.
        """
        file_id, ending = self._to_id(os.path.basename(image_filename))
        image_id = _checked_name(image_id or file_id, "image")
        image = _read(Path(image_filename))
        if not self._kept_image(image_id):
            name = self._filename(image_id, ending)
            target = os.path.join(self._datastore.image_path(), name)
            # what takes long is done before others have to wait
            with _copied_beside(image_filename, target) as beside, self._guard:
                if not self._kept_image(image_id):
                    os.replace(beside, target)
                    info = {**(image_info or {}), "ts": int(time.time()), "name": name}
                    self._datastore.objects[image_id] = ImageLabelModel(image=DataModel(info=info, ext=ending))
                    self._update_datastore_file()
                    return image_id
        try:
            check_same_grid(read_volume(self._kept_image(image_id)), image)
        except ValueError as error:
            raise HTTPException(
                409, f"another image is called {image_id} already; choose another name. ({error})"
            ) from error
        return image_id

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Keep a label of an image; it replaces one of the same tag.

        Raises:
            ImageNotFoundException: there is no such image.
            HTTPException: 422 for a tag or file that cannot be used; says why.
        """
        tag = _checked_name(getattr(label_tag, "value", label_tag), "tag")
        image = self.get_image_uri(image_id)
        if not image:
            raise ImageNotFoundException(f"there is no image {image_id}")
        try:
            load_case(Case(image_id, Path(image), (MaskFile(Path(label_filename)),), image_id))
        except CaseError as error:
            raise HTTPException(422, str(error).replace(label_filename, "the label")) from error
        return self._keep_label(image_id, label_filename, tag, label_info or {})

    def _keep_label(self, image_id: str, label_filename: str, tag: str, label_info: Mapping[str, Any]) -> str:
        """Put a label that was checked in its place."""
        _, ending = self._to_id(os.path.basename(label_filename))
        name = self._filename(image_id, ending)
        target = os.path.join(self._datastore.label_path(tag), name)
        with _copied_beside(label_filename, target) as beside, self._guard:
            before = self._kept_label(image_id, tag)
            os.replace(beside, target)
            info = {**label_info, "ts": int(time.time()), "name": name}
            self._datastore.objects[image_id].labels[tag] = DataModel(info=info, ext=ending)
            self._update_datastore_file()
            if before and before != os.path.realpath(target):  # of another format
                Path(before).unlink(missing_ok=True)
        return image_id

    def _update_datastore_file(self, lock: bool = True) -> None:
        content = self._datastore.model_dump(exclude={"base_path"})
        with self._guard, FileLock(self._lock_file):
            write_atomically(Path(self._datastore_config_path), json.dumps(content, indent=2, default=str).encode())
            self._config_ts = os.stat(self._datastore_config_path).st_mtime

    _kept_image = _one_at_a_time(LocalDatastore.get_image_uri)
    _kept_label = _one_at_a_time(LocalDatastore.get_label_uri)
    get_image_uri = _kept_image
    get_label_uri = _kept_label
    get_image_info = _one_at_a_time(LocalDatastore.get_image_info)
    get_label_info = _one_at_a_time(LocalDatastore.get_label_info)
    get_labels_by_image_id = _one_at_a_time(LocalDatastore.get_labels_by_image_id)
    get_labeled_images = _one_at_a_time(LocalDatastore.get_labeled_images)
    get_unlabeled_images = _one_at_a_time(LocalDatastore.get_unlabeled_images)
    list_images = _one_at_a_time(LocalDatastore.list_images)
    datalist = _one_at_a_time(LocalDatastore.datalist)
    status = _one_at_a_time(LocalDatastore.status)
    json = _one_at_a_time(LocalDatastore.json)
    update_image_info = _one_at_a_time(LocalDatastore.update_image_info)
    update_label_info = _one_at_a_time(LocalDatastore.update_label_info)
    remove_image = _one_at_a_time(LocalDatastore.remove_image)
    remove_label = _one_at_a_time(LocalDatastore.remove_label)
    # also on the thread that watches the folder
    refresh = _one_at_a_time(LocalDatastore.refresh)
    _init_from_datastore_file = _one_at_a_time(LocalDatastore._init_from_datastore_file)


def labelled_images(studies: Datastore) -> list[LabelledImage]:
    """The images with a final label, by name; those that cannot be had are left out, and the log says why."""
    found = []
    for image_id in sorted(studies.get_labeled_images()):
        try:
            image, label = studies.get_image_uri(image_id), studies.get_label_uri(image_id, "final")
        except (HTTPException, OSError) as error:
            logger.warning("%s is not trained on: %s", image_id, error)
            continue
        if not (os.path.exists(image) and os.path.exists(label)):  # deleted, and the studies were not looked at since
            continue
        values = _values(studies.get_label_info(image_id, "final").get("label_info"))
        patient = str(studies.get_image_info(image_id).get("PatientID") or "")
        found.append(
            LabelledImage(image_id, image, label, values, stamp_of(image, label), "" if patient == UNKNOWN else patient)
        )
    return found


def _values(label_info: Any) -> dict[str, int]:
    """name -> value, of what clients send: [{"name": "liver", "idx": 1}]; what is anything else is passed over."""
    values = {}
    for entry in label_info if isinstance(label_info, list) else ():
        with suppress(TypeError, KeyError, ValueError):
            if int(entry["idx"]) > 0:
                values[str(entry["name"])] = int(entry["idx"])
    return values


def _checked_name(name: str, what: str) -> str:
    """A name that is one of a file in a folder, and not a hidden one."""
    if not isinstance(name, str) or not re.fullmatch(r"[^./\\\x00-\x1f][^/\\\x00-\x1f]{0,199}", name):
        raise HTTPException(
            422, f"{name!r} cannot be the name of the {what}: names have no slash and do not begin with a dot."
        )
    return name


def _read(path: Path) -> Any:
    try:
        return read_volume(path)
    except (OSError, ValueError) as error:
        raise HTTPException(422, str(error).replace(str(path), "the image")) from error


@contextmanager
def _copied_beside(source: str, target: str) -> Iterator[str]:
    """A copy beside its place, to be moved there; it is removed where it was not."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    descriptor, beside = tempfile.mkstemp(dir=os.path.dirname(target), prefix=".incoming.")
    os.close(descriptor)
    try:
        shutil.copyfile(source, beside)
        os.chmod(beside, 0o644)
        yield beside
    finally:
        Path(beside).unlink(missing_ok=True)


def _put_damaged_list_aside(path: Path) -> None:
    """MONAI Label would not start with a list that it cannot read; the files themselves say what there is."""
    try:
        if path.is_file():
            json.loads(path.read_bytes())
    except ValueError:
        kept = path.with_name(f"{path.name}.damaged_{time.strftime('%Y%m%d_%H%M%S')}")
        path.replace(kept)
        logger.warning("%s was damaged and is kept as %s; the list is made anew from the files.", path, kept.name)
