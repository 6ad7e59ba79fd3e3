"""Masks as DICOM Segmentation objects, beside the series that they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from monai_cobot import __version__
from monai_cobot.data.volumes import Volume, labels_in, mask_on_source_grid
from monai_cobot.files import written_beside

__all__ = ["write_dicom_seg"]


def write_dicom_seg(mask: np.ndarray, like: Volume, path: str | Path, names: Mapping[int, str] | None = None) -> None:
    """Writes a label map as one DICOM SEG, with a segment for each label that occurs.

    Args:
        mask: (I, J, K) in the frame of ``like.array``, whole numbers from 0.
        like: a volume that was read from a folder with a DICOM series.
        path: .dcm.
        names: label -> name; "label 1" and so on where there is none.

    Raises:
        ValueError: the image is no DICOM series or lacks attributes, the mask is empty (DICOM SEG cannot say so), or
            highdicom is not installed.
        OSError: the file cannot be written; what was there before is intact.
    """
    try:
        import highdicom as hd
        import pydicom
        from highdicom.sr.coding import CodedConcept
    except ImportError as error:
        raise ValueError('DICOM SEG needs highdicom: pip install "monai-cobot[dicom]".') from error
    path = Path(path)
    series: tuple[str, ...] = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(like.path)) if like.path.is_dir() else ()
    if len(series) != 1:
        raise ValueError(
            f"{path}: DICOM SEG belongs to a DICOM series, and {like.path} is none. Choose .nii.gz instead."
        )
    labels = labels_in(mask)
    if not labels:
        raise ValueError(f"{path}: the mask is empty, which DICOM SEG cannot hold.")
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(like.path), series[0])
    sources = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
    for source in sources:
        if source.get("SliceThickness") is None:  # some scanners and converters leave it out
            source.SliceThickness = float(np.linalg.norm(like.source_affine[:3, 2]))
    frames = mask_on_source_grid(mask, like).T  # (K, J, I): slices in the order of the files, rows, columns
    tissue = CodedConcept("85756007", "SCT", "Tissue")
    named = [(names or {}).get(label, f"label {label}") for label in labels]
    segments = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=tissue,
            segmented_property_type=tissue,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.SEMIAUTOMATIC,
            algorithm_identification=hd.AlgorithmIdentificationSequence(
                name="monai_cobot",
                version=__version__,
                family=CodedConcept("123110", "DCM", "Artificial Intelligence"),
            ),
        )
        for number, name in enumerate(named, start=1)
    ]
    numbered = np.zeros(frames.shape, dtype=np.uint8)
    for number, label in enumerate(labels, start=1):
        numbered[frames == label] = number
    # the series' own letters where they do, for its other texts are copied
    letters: dict[str, Any] = {} if all(map(str.isascii, named)) else {"specific_character_set": "ISO_IR 192"}
    try:
        segmentation = hd.seg.Segmentation(
            source_images=sources,
            pixel_array=numbered,
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=segments,
            series_instance_uid=hd.UID(),
            series_number=900,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer="monai_cobot contributors",
            manufacturer_model_name="monai_cobot",
            software_versions=__version__,
            device_serial_number="0",
            series_description="Segmentation by monai_cobot",
            **letters,
        )
    except AttributeError as error:  # how pydicom says that a series lacks an attribute
        raise ValueError(f"{like.path}: the series lacks what DICOM SEG takes over from it ({error}).") from error
    with written_beside(path) as beside:
        segmentation.save_as(beside)
