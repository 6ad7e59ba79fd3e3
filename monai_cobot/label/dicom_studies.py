"""Studies on a DICOM server, which is asked over DICOMweb: searched (QIDO), read (WADO) and written to (STOW).

MONAI Label's own access to one fetches a program from the internet when the server starts, and takes a download that
was interrupted for a whole series. Here, series are moved into their folder when they are complete, and labels are
written as DICOM SEG by highdicom.
"""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pydicom
import pydicom_seg
import requests
import SimpleITK as sitk
from dicomweb_client.session_utils import create_session_from_gcp_credentials, create_session_from_user_pass
from fastapi import HTTPException
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMwebClientX
from monailabel.interfaces.exception import ImageNotFoundException

from monai_cobot.data import labels_in, read_mask, read_volume
from monai_cobot.data.dicom_seg import write_dicom_seg
from monai_cobot.label.studies import UNKNOWN, Studies, labelled_images

__all__ = ["DicomStudies", "open_dicom_studies"]

logger = logging.getLogger(__name__)

_SECONDS_KEPT = 60.0
_SECONDS_TO_ANSWER = (10, 300)  # to connect, and between two pieces of the answer
_SECONDS_IN_WORK = 24 * 3600.0
_COUNT = "NumberOfSeriesRelatedInstances"
_TOLD = ("SeriesInstanceUID", "StudyInstanceUID", "StudyDate", "StudyTime", "Modality", "PatientID", "RetrieveURL")

_Answer = TypeVar("_Answer")


def open_dicom_studies(address: str) -> DicomStudies:
    """Studies on a DICOM server, with MONAI Label's settings for it (``MONAI_LABEL_DICOMWEB_...``).

    Args:
        address: its root for DICOMweb, ``http://...``.
    """
    if "googleapis.com" in address:
        session = create_session_from_gcp_credentials()
    elif settings.MONAI_LABEL_DICOMWEB_USERNAME and settings.MONAI_LABEL_DICOMWEB_PASSWORD:
        session = create_session_from_user_pass(
            settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
        )
    else:
        session = requests.Session()
    address = address.rstrip("/")
    cache = (settings.MONAI_LABEL_DICOMWEB_CACHE_PATH or "").strip()
    root = Path(cache) if cache else Path.home() / ".cache" / "monai_cobot" / "dicom"
    folder = root / f"cobot_{hashlib.md5(address.encode(), usedforsecurity=False).hexdigest()}"
    return DicomStudies(address, folder, settings.MONAI_LABEL_DICOMWEB_SEARCH_FILTER, session)


@dataclass(frozen=True)
class _Segmentation:
    """A series with a DICOM SEG: of what image series, and when it was made."""

    series: str
    study: str
    image: str
    made: str


class DicomStudies(Studies):
    """The series of a DICOM server as images, under their UIDs, and its DICOM SEG as their final labels.

    What was asked for is kept in a folder: each series as it is and as NIfTI, and labels as NIfTI on the grid of their
    image. Where a series has several DICOM SEG, the one that was made last is its label. Labels with another tag than
    ``final`` are kept in the folder alone.

    Args:
        address: of the server, without a slash at its end.
        folder: for copies, the server's alone.
        search: what image series have, such as ``{"Modality": "CT"}``.
        session: with what the server asks for to let somebody in.
    """

    def __init__(
        self, address: str, folder: Path, search: Mapping[str, str], session: requests.Session | None = None
    ) -> None:
        self._address = address
        self._session = session or requests.Session()
        self._prefixes = {
            "qido": settings.MONAI_LABEL_QIDO_PREFIX,
            "wado": settings.MONAI_LABEL_WADO_PREFIX,
            "stow": settings.MONAI_LABEL_STOW_PREFIX,
        }
        self._client = DICOMwebClientX(
            url=self._address,
            session=self._session,
            timeout=_SECONDS_TO_ANSWER,
            **{f"{name}_url_prefix": prefix for name, prefix in self._prefixes.items()},
        )
        self._search = dict(search)
        self._asking = {"series": threading.RLock(), "labels": threading.RLock()}
        self._downloading = threading.RLock()
        self._answers: dict[str, tuple[float, Any]] = {}
        self._segmentations: dict[str, _Segmentation | None] = {}
        folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        for half in folder.glob(".incoming*"):  # of a server that was killed, and not of one that is at work
            if time.time() - half.stat().st_mtime > _SECONDS_IN_WORK:
                shutil.rmtree(half, ignore_errors=True)
        self._folder = folder
        super().__init__(str(folder), ["*.nii.gz"], auto_reload=False, read_only=False)

    def name(self) -> str:
        """The server's address."""
        return self._address

    # --- what is there

    def list_images(self) -> list[str]:
        """UIDs of the series; those that are new are seen within a minute."""
        return list(self._series())

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """UIDs of the series that have a DICOM SEG."""
        return list(self._labels())

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """UIDs of the series that have no DICOM SEG."""
        labelled = self._labels()
        return [series for series in self._series() if series not in labelled]

    def status(self) -> dict[str, Any]:
        """How many images there are, how many with a label, and the labels that are kept here."""
        self._series(), self._labels()  # others need not wait for the list until the DICOM server answers
        status: dict[str, Any] = super().status()
        return status

    def _series(self) -> dict[str, dict[str, str]]:
        """UID -> what is told of the series."""

        def search() -> dict[str, dict[str, str]]:
            told = [
                {name: str(one.get(name) or UNKNOWN) for name in (*_TOLD, _COUNT)} for one in self._found(self._search)
            ]
            return {one["SeriesInstanceUID"]: one for one in told if _is_uid(one["SeriesInstanceUID"])}

        return self._lately("series", search)

    def _found(self, search: Mapping[str, str]) -> list[pydicom.Dataset]:
        """All series that a search finds, page by page; some servers have no pages, and begin again each time."""
        found: dict[str, pydicom.Dataset] = {}
        while True:
            page = self._client.search_for_series(search_filters=dict(search), offset=len(found) or None)
            new = {str(one.get("SeriesInstanceUID")): one for one in map(pydicom.Dataset.from_json, page)}
            if new.keys() <= found.keys():
                return list(found.values())
            found |= new

    def _labels(self) -> dict[str, _Segmentation]:
        """UID of an image series -> the newest DICOM SEG of it."""

        def search() -> dict[str, _Segmentation]:
            series = self._series()
            all_of_them = (self._segmentation(one) for one in self._found({"Modality": "SEG"}))
            known = [one for one in all_of_them if one is not None and one.image in series]
            return {one.image: one for one in sorted(known, key=lambda one: one.made)}

        return self._lately("labels", search)

    def _segmentation(self, found: pydicom.Dataset) -> _Segmentation | None:
        """What a DICOM SEG says of itself, which never changes; None where it does not say of what series it is."""
        series, study = str(found.SeriesInstanceUID), str(found.StudyInstanceUID)
        if series in self._segmentations or not _is_uid(series):
            return self._segmentations.get(series)
        try:
            told = self._client.retrieve_series_metadata(study, series)
            about = max(map(pydicom.Dataset.from_json, told), key=_made)
        except Exception as error:  # the client's, its parts', the network's: asked again next time
            logger.warning("The segmentation %s is left out for now: %s", series, error)
            return None
        try:
            image = str(about.ReferencedSeriesSequence[0].SeriesInstanceUID)
            self._segmentations[series] = _Segmentation(series, study, image, _made(about))
        except (AttributeError, IndexError):
            logger.warning("The segmentation %s is left out, for it names no series.", series)
            self._segmentations[series] = None
        return self._segmentations[series]

    def _lately(self, what: str, ask: Callable[[], _Answer]) -> _Answer:
        """The server's answer, or that of the last minute, or the last one where it does not answer now."""
        with self._asking[what]:
            asked, answer = self._answers.get(what, (-np.inf, None))
            if time.monotonic() - asked > _SECONDS_KEPT:
                try:
                    answer = self._answer_of(ask)
                except HTTPException as error:
                    if what not in self._answers:
                        raise
                    logger.warning("%s; what it said before is taken.", error.detail)
                self._answers[what] = (time.monotonic(), answer)
            return answer

    def _answer_of(self, ask: Callable[[], _Answer]) -> _Answer:
        """What the server answers.

        Raises:
            HTTPException: 502 where it does not, or not what was asked for.
        """
        try:
            return ask()
        except HTTPException:
            raise
        except Exception as error:  # the client's, its parts', pydicom's, the network's: each has its own kinds
            raise HTTPException(502, f"the DICOM server {self._address} cannot be asked: {error}") from error

    # --- images

    def get_image_uri(self, image_id: str) -> str:
        """The NIfTI file of a series, which is downloaded where it is not kept; empty for another UID."""
        kept = self._kept_image(image_id)
        if image_id in self._series() and not (kept and self._is_whole(image_id)):
            with self._downloading:
                kept = self._kept_image(image_id)
                if not (kept and self._is_whole(image_id)):
                    kept = self._convert(image_id)
        return str(kept)

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """What the server says of a series, and what is kept of it here."""
        told = {name: self._series()[image_id][name] for name in _TOLD} if image_id in self._series() else {}
        return {"name": f"{image_id}.nii.gz", **told, **super().get_image_info(image_id)}

    def _is_whole(self, image_id: str) -> bool:
        """Whether all files of a series are kept, of as many as the server says that there are now."""
        folder = self._folder / image_id
        told = self._series()[image_id][_COUNT]
        return folder.is_dir() and told in (UNKNOWN, str(sum(1 for _ in folder.iterdir())))

    def _convert(self, image_id: str) -> str:
        """Keep a series as NIfTI, which clients and training read; returns the file.

        Raises:
            HTTPException: 422 where it is no image that can be segmented, such as one with a missing slice.
        """
        source = self._folder_of(image_id)
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=".incoming") as folder:
            path = Path(folder) / f"{image_id}.nii.gz"
            try:
                read_volume(source)
                files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(source))
                sitk.WriteImage(sitk.ReadImage(files if len(files) > 1 else files[0]), str(path))
            except (OSError, RuntimeError, ValueError) as error:
                reason = str(error).replace(str(source), f"the series {image_id}")
                raise HTTPException(422, f"the series cannot be segmented: {reason}") from error
            kept = self._kept_image(image_id)
            if kept:  # it has got further slices
                path.replace(kept)
            else:
                super().add_image(image_id, str(path), {name: self._series()[image_id][name] for name in _TOLD})
        return str(self._kept_image(image_id))

    def _folder_of(self, image_id: str) -> Path:
        """The folder with the files of a series, which are downloaded where they are not kept."""
        folder = self._folder / image_id
        if not self._is_whole(image_id):
            with self._downloading:
                if not self._is_whole(image_id):
                    self._download(self._series()[image_id]["StudyInstanceUID"], image_id, folder)
        return folder

    def _download(self, study: str, series: str, target: Path) -> None:
        """Put all files of a series into a folder, at once and in the place of what was there.

        Raises:
            HTTPException: 502 where the server does not send all of them.
        """
        begun = time.monotonic()
        instances = self._answer_of(lambda: list(self._client.retrieve_series(study, series)))
        count = self._series().get(series, {}).get(_COUNT, UNKNOWN)
        if not instances or count not in (UNKNOWN, str(len(instances))) or any(map(_is_cut, instances)):
            raise HTTPException(
                502, f"the DICOM server {self._address} did not send all of the series {series}; ask again."
            )
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=".incoming") as folder:
            complete = Path(folder) / "series"
            complete.mkdir()
            for number, instance in enumerate(instances):
                instance.save_as(complete / f"{number:05}.dcm")
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                target.replace(Path(folder) / "before")
            complete.replace(target)
        logger.info("%d files of the series %s in %.1f s", len(instances), series, time.monotonic() - begun)

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Refused: images come onto a DICOM server by other ways."""
        raise HTTPException(422, f"images are on the DICOM server {self._address}; send new ones there.")

    def remove_image(self, image_id: str) -> None:
        """Refused: a DICOM server is not asked to remove anything."""
        raise HTTPException(422, f"images are on the DICOM server {self._address}; remove them there.")

    # --- labels

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Keep a label of an image, and where its tag is ``final``, store it on the server as DICOM SEG.

        Args:
            image_id: UID of the series.
            label_filename: a label map; or, with the ending .bin, OHIF's: uint8, a row after the other.
            label_tag: ``final``, or another.
            label_info: ``{"label_info": [{"name": ..., "idx": ...}]}`` says what the labels are called.

        Raises:
            ImageNotFoundException: there is no such image.
            HTTPException: 422 where the label cannot be used or is empty, 502 where the server does not take it; then
                nothing is kept.
        """
        if image_id not in self._series():
            raise ImageNotFoundException(f"there is no image {image_id}")
        if not label_filename.endswith(".bin"):
            return super().save_label(image_id, label_filename, label_tag, label_info)
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=".incoming") as folder:
            path = Path(folder) / f"{image_id}.nii.gz"
            _write_plain_bytes(Path(label_filename), Path(self.get_image_uri(image_id)), path)
            return super().save_label(image_id, str(path), label_tag, label_info)

    def _keep_label(self, image_id: str, label_filename: str, tag: str, label_info: Mapping[str, Any]) -> str:
        if tag == "final":
            label_info = {**label_info, **self._store(image_id, label_filename, label_info.get("label_info"))}
        return super()._keep_label(image_id, label_filename, tag, label_info)

    def _store(self, image_id: str, label_filename: str, label_info: Any) -> dict[str, Any]:
        """Store a label map on the server; returns the UID of its series, and what its labels are called."""
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=".incoming") as folder:
            path = Path(folder) / "segmentation.dcm"
            names = self.write_segmentation(image_id, label_filename, label_info, path)
            segmentation = pydicom.dcmread(path)
            answer = self._answer_of(lambda: self._client.store_instances([segmentation]))
        if answer.get("FailedSOPSequence"):
            raise HTTPException(502, f"the DICOM server {self._address} did not take the segmentation: {answer}")
        with self._asking["labels"]:
            self._answers.pop("labels", None)
        named = [{"name": name, "idx": label} for label, name in names.items()]
        return {"SeriesInstanceUID": str(segmentation.SeriesInstanceUID), "label_info": named}

    def write_segmentation(self, image_id: str, label_filename: str, label_info: Any, path: Path) -> dict[int, str]:
        """Write a label map as DICOM SEG of its series.

        Args:
            image_id: UID of the series.
            label_filename: the label map, on the grid of the series.
            label_info: what clients say of the labels; see :meth:`save_label`.
            path: .dcm.

        Returns:
            Label -> name, of the labels that occur and have one.

        Raises:
            HTTPException: 422 where the label is empty, or the series lacks what DICOM SEG takes over from it.
        """
        mask = read_mask(label_filename).array[0]
        names = _names(label_info, labels_in(mask))
        try:
            write_dicom_seg(mask, read_volume(self._folder_of(image_id)), path, names)
        except ValueError as error:
            raise HTTPException(422, str(error).replace(f"{path}: ", "")) from error
        return names

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """The file of a label; a final one is that of the server, and downloaded where it is not kept."""
        if label_tag == "final":
            newest = self._labels().get(label_id)
            if newest is None:
                return ""
            if not self._is_kept(newest):
                with self._downloading:
                    if not self._is_kept(newest):
                        self._fetch(newest)
        return str(self._kept_label(label_id, label_tag))

    def _is_kept(self, segmentation: _Segmentation) -> bool:
        info = self.get_label_info(segmentation.image, "final")
        return info.get("SeriesInstanceUID") == segmentation.series

    def _fetch(self, segmentation: _Segmentation) -> None:
        """Keep a DICOM SEG as a label map on the grid of its image."""
        image = self.get_image_uri(segmentation.image)
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=".incoming") as folder:
            self._download(segmentation.study, segmentation.series, Path(folder) / "downloaded")
            path = Path(folder) / f"{segmentation.image}.nii.gz"
            try:
                names = _convert_segmentation(Path(folder) / "downloaded", image, path)
            except (AttributeError, KeyError, RuntimeError, TypeError, ValueError, OSError) as error:
                raise HTTPException(
                    422, f"the segmentation {segmentation.series} cannot be read as a label map: {error}"
                ) from error
            before = self.get_label_info(segmentation.image, "final")  # such as what a reviewer said of it
            info = {**before, "label_info": names, "SeriesInstanceUID": segmentation.series}
            super()._keep_label(segmentation.image, str(path), "final", info)

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a label that is kept here alone; final ones are refused, for they are on the server."""
        if label_tag == "final":
            raise HTTPException(422, f"final labels are on the DICOM server {self._address}; remove them there.")
        super().remove_label(label_id, label_tag)

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        """Files of the images with a final label, which are downloaded, and of the labels."""
        return [{"image": one.image, "label": one.label} for one in labelled_images(self)]

    # --- what others ask the DICOM server through this one

    def forward(
        self,
        method: str,
        operation: Literal["wado", "qido", "stow"],
        path: str,
        query: str,
        headers: Mapping[str, str],
        body: bytes,
    ) -> requests.Response:
        """The server's answer to a request that is passed on: one that reads, or that stores files.

        Raises:
            HTTPException: 404 for any other request, 502 where the server does not answer.
        """
        stores = re.fullmatch(r"studies(/[0-9.]+)?", path) and headers.get("content-type", "").startswith("multipart/")
        reads = re.fullmatch(r"(studies|series|instances)(/[\w.,-]+)*/?", path) and ".." not in path.split("/")
        if not (reads if method == "GET" else stores):
            raise HTTPException(404, "there is nothing to be read or stored at this address of the DICOM server.")
        # some versions of OHIF ask for metadata where one searches
        prefix = self._prefixes["wado" if path.endswith("metadata") else operation]
        address = "/".join(part for part in (self._address, prefix, path) if part) + (f"?{query}" if query else "")
        return self._answer_of(
            lambda: self._session.request(
                method, address, headers=dict(headers), data=body or None, timeout=_SECONDS_TO_ANSWER
            )
        )


def _is_uid(text: str) -> bool:
    """Whether it is a DICOM UID, which is also the name of a file."""
    return re.fullmatch(r"[0-9]+(\.[0-9]+)*", text) is not None and len(text) <= 64


def _made(dataset: pydicom.Dataset) -> str:
    """Date and time at which a DICOM SEG was made, which sort as texts."""
    return f"{dataset.get('ContentDate') or ''}{dataset.get('ContentTime') or ''}"


def _is_cut(instance: pydicom.Dataset) -> bool:
    """Whether pixels are missing at its end, where they are not compressed."""
    pixels = instance.get("PixelData")
    if pixels is None or instance.file_meta.TransferSyntaxUID.is_encapsulated:
        return False
    count = (
        instance.Rows * instance.Columns * instance.get("SamplesPerPixel", 1) * int(instance.get("NumberOfFrames") or 1)
    )
    return len(pixels) < count * instance.BitsAllocated // 8


def _names(label_info: Any, labels: Sequence[int]) -> dict[int, str]:
    """Label -> name, of what clients send for labels that occur: by its number (``idx``, or OHIF's ``segmentIndex``),
    or, where they send none and as many names as there are labels, in the order of the labels."""
    entries = [entry for entry in label_info if isinstance(entry, Mapping)] if isinstance(label_info, list) else []
    in_order = len(entries) == len(labels)
    names = {}
    for position, entry in enumerate(entries):
        with suppress(TypeError, ValueError):
            number = entry.get("idx", entry.get("segmentIndex", labels[position] if in_order else None))
            if int(number) in labels and entry.get("name"):
                names[int(number)] = str(entry["name"])[:64]
    return names


def _write_plain_bytes(label: Path, image: Path, path: Path) -> None:
    """OHIF's label, the bytes of its voxels, as a label map on the grid of its image."""
    like = sitk.ReadImage(str(image))
    voxels = np.fromfile(label, dtype=np.uint8)
    if voxels.size != np.prod(like.GetSize()):
        size = " x ".join(map(str, like.GetSize()))
        raise HTTPException(422, f"the label has {voxels.size} voxels of one byte; its image has {size}.")
    mask = sitk.GetImageFromArray(voxels.reshape(like.GetSize()[::-1]))
    mask.CopyInformation(like)
    sitk.WriteImage(mask, str(path))


def _convert_segmentation(folder: Path, image: str, path: Path) -> list[dict[str, Any]]:
    """The newest DICOM SEG of a series as a label map; it leaves empty slices out, so that its own grid is smaller than
    that of its image.

    Returns:
        Names and values of the labels.
    """
    dataset = max((pydicom.dcmread(file) for file in sorted(folder.iterdir())), key=_made)
    mask = pydicom_seg.MultiClassReader().read(dataset).image
    like = sitk.ReadImage(image)
    sitk.WriteImage(sitk.Resample(mask, like, sitk.Transform(), sitk.sitkNearestNeighbor), str(path))
    return [{"name": str(one.SegmentLabel), "idx": int(one.SegmentNumber)} for one in dataset.SegmentSequence]
