"""Studies on a DICOM server, without a server of MONAI Label's."""

import threading
from pathlib import Path

import numpy as np
import pytest
from dicom_server import dicom_server, save_series

from monai_cobot.data import read_mask, read_volume
from monai_cobot.data.dicom_seg import write_dicom_seg
from monai_cobot.label.server import accept_pydicom_3

pytest.importorskip("highdicom", reason='DICOM SEG needs the extra "dicom"')


@pytest.fixture
def open_dicom_studies(monailabel, tmp_path: Path):
    accept_pydicom_3()
    from monai_cobot.label.dicom_studies import DicomStudies

    return lambda address: DicomStudies(address, tmp_path / "copies", {"Modality": "CT"})


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A DICOM server's."""
    return tmp_path / "files"


def values(number: int) -> np.ndarray:
    """(K, J, I)"""
    return np.random.default_rng(number).integers(-200, 300, (6, 12, 10)).astype(np.int16)


def save_segmentation(folder: Path, series: Path, low: int, name: str = "ball") -> np.ndarray:
    """Writes a DICOM SEG of a series; returns its mask. Other slices are empty, which DICOM SEG leaves out."""
    volume = read_volume(series)
    mask = np.zeros(volume.array.shape[1:], dtype=np.uint8)
    mask[low:6, 3:8, 2:4] = 1
    write_dicom_seg(mask, volume, folder / f"seg_{len(list(folder.glob('*.dcm')))}.dcm", {1: name})
    return mask


def label_file(studies, series: str, path: Path, value: int = 1) -> np.ndarray:
    """Writes a label of a series on the grid that clients get; returns it."""
    import nibabel as nib

    image = nib.load(studies.get_image_uri(series))
    label = np.zeros(image.shape, dtype=np.uint8)
    label[2:5, 3:9, 1:4] = value
    nib.save(nib.Nifti1Image(label, image.affine), path)
    return label


def test_images_with_a_segmentation_on_a_dicom_server_can_be_trained_on(open_dicom_studies, files):
    from monai_cobot.label.studies import labelled_images

    truths = {}
    for number in range(3):
        series = save_series(files / f"series_{number}", values(number), number)
        if number < 2:
            truths[series] = save_segmentation(files, files / f"series_{number}", 2 + number)
    with dicom_server(files) as (address, _):
        found = labelled_images(open_dicom_studies(address))
    assert sorted(image.name for image in found) == sorted(truths)
    for image in found:
        label = read_mask(image.label)
        assert np.array_equal(label.array[0], truths[image.name])
        assert np.allclose(label.affine, read_volume(image.image).affine)
        assert image.values == {"ball": 1}


def test_of_several_segmentations_the_last_is_the_label_also_where_another_was_downloaded(open_dicom_studies, files):
    from monai_cobot.label.studies import labelled_images

    save_series(files / "series", values(0), 0)
    save_segmentation(files, files / "series", 2)
    with dicom_server(files) as (address, _):
        labelled_images(open_dicom_studies(address))
    newest = save_segmentation(files, files / "series", 5, "other")
    with dicom_server(files) as (address, _):
        (found,) = labelled_images(open_dicom_studies(address))
    assert np.array_equal(read_mask(found.label).array[0], newest)
    assert found.values == {"other": 1}


def test_a_segmentation_that_cannot_be_read_costs_no_other(open_dicom_studies, files, caplog):
    import pydicom

    from monai_cobot.label.studies import labelled_images

    for number in range(2):
        save_series(files / f"series_{number}", values(number), number)
        save_segmentation(files, files / f"series_{number}", 2)
    damaged = pydicom.dcmread(files / "seg_0.dcm")
    del damaged.PerFrameFunctionalGroupsSequence
    damaged.save_as(files / "seg_0.dcm")
    with dicom_server(files) as (address, _):
        found = labelled_images(open_dicom_studies(address))
    assert len(found) == 1
    assert f"{damaged.SeriesInstanceUID} cannot be read as a label map" in caplog.text


def test_a_label_is_stored_on_the_dicom_server_and_read_back_by_another_program(open_dicom_studies, files, tmp_path):
    from monai_cobot.label.studies import labelled_images

    series = save_series(files / "series", values(0), 0)
    with dicom_server(files) as (address, downloaded):
        studies = open_dicom_studies(address)
        label = label_file(studies, series, tmp_path / "label.nii.gz", value=3)
        assert studies.get_unlabeled_images() == [series]
        studies.save_label(
            series, str(tmp_path / "label.nii.gz"), "final", {"label_info": [{"name": "liver", "idx": 3}]}
        )
        assert studies.get_labeled_images() == [series]
        assert studies.status()["completed"] == 1
        (kept,) = labelled_images(studies)
        assert (kept.values, downloaded) == ({"liver": 3}, [series])

        elsewhere = type(studies)(address, tmp_path / "elsewhere", {"Modality": "CT"})
        (found,) = labelled_images(elsewhere)
    assert found.values == {"liver": 1}
    assert np.array_equal(read_mask(found.label).array, read_mask(tmp_path / "label.nii.gz").array == 3)
    assert label.any()


def test_a_label_that_the_dicom_server_does_not_take_is_not_kept_either(open_dicom_studies, files, tmp_path):
    from fastapi import HTTPException

    series = save_series(files / "series", values(0), 0)
    (files / "full").touch()
    with dicom_server(files) as (address, _):
        studies = open_dicom_studies(address)
        label_file(studies, series, tmp_path / "label.nii.gz")
        with pytest.raises(HTTPException) as refused:
            studies.save_label(series, str(tmp_path / "label.nii.gz"), "final", {})
        assert (refused.value.status_code, studies.get_label_uri(series, "final")) == (502, "")
    assert "409" in refused.value.detail
    assert not list((tmp_path / "copies").rglob("labels/final/*.nii.gz"))


@pytest.mark.parametrize("tag", ["final", "draft"])
def test_an_empty_label_is_refused_as_final_alone(open_dicom_studies, files, tmp_path, tag):
    from fastapi import HTTPException

    series = save_series(files / "series", values(0), 0)
    with dicom_server(files) as (address, _):
        studies = open_dicom_studies(address)
        label_file(studies, series, tmp_path / "label.nii.gz", value=0)
        if tag == "final":
            with pytest.raises(HTTPException, match="the mask is empty"):
                studies.save_label(series, str(tmp_path / "label.nii.gz"), tag, {})
        else:
            studies.save_label(series, str(tmp_path / "label.nii.gz"), tag, {})
            assert Path(studies.get_label_uri(series, tag)).is_file()


def test_a_download_that_ends_in_its_middle_is_not_taken_for_the_series(open_dicom_studies, files):
    from fastapi import HTTPException

    series = save_series(files / "series", values(0), 0)
    (files / "broken").touch()
    with dicom_server(files) as (address, _):
        studies = open_dicom_studies(address)
        with pytest.raises(HTTPException) as refused:
            studies.get_image_uri(series)
        assert refused.value.status_code == 502
        (files / "broken").unlink()
        assert np.array_equal(
            read_volume(studies.get_image_uri(series)).array[0], read_volume(files / "series").array[0]
        )


def test_a_dicom_server_that_does_not_answer_is_said(open_dicom_studies, files):
    from fastapi import HTTPException

    save_series(files / "series", values(0), 0)
    with dicom_server(files) as (address, _):
        studies = open_dicom_studies(address)
    with pytest.raises(HTTPException, match=f"the DICOM server {address} cannot be asked"):
        studies.list_images()


def test_an_image_of_a_dicom_server_is_downloaded_once_by_however_many_threads_ask_for_it(open_dicom_studies, files):
    series = save_series(files / "series", values(0), 0)
    with dicom_server(files, seconds=0.5) as (address, downloaded):
        studies = open_dicom_studies(address)
        got: list[tuple[list[str], tuple[int, ...]]] = []

        def ask() -> None:
            got.append((studies.list_images(), read_volume(studies.get_image_uri(series)).array.shape))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert downloaded == [series]
    assert got == [([series], (1, 10, 12, 6))] * 4
