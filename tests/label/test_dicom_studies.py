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


@pytest.mark.parametrize("fault", ["broken", "short", "cut"])
def test_a_download_that_lacks_something_is_not_taken_for_the_series(open_dicom_studies, files, fault):
    from fastapi import HTTPException

    series = save_series(files / "series", values(0), 0)
    (files / fault).touch()
    with dicom_server(files) as (address, _):
        studies = open_dicom_studies(address)
        with pytest.raises(HTTPException) as refused:
            studies.get_image_uri(series)
        assert refused.value.status_code == 502
        (files / fault).unlink()
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


def test_a_series_that_has_got_further_slices_is_downloaded_again(open_dicom_studies, files):
    series = save_series(files / "series", values(0), 0)
    late = files / "series" / "05.dcm"
    content = late.read_bytes()
    late.unlink()
    with dicom_server(files) as (address, _):
        studies = open_dicom_studies(address)
        assert read_volume(studies.get_image_uri(series)).array.shape == (1, 10, 12, 5)
    late.write_bytes(content)
    with dicom_server(files) as (address, _):
        studies = open_dicom_studies(address)
        assert read_volume(studies.get_image_uri(series)).array.shape == (1, 10, 12, 6)


def test_a_series_with_a_missing_slice_is_refused_before_anybody_labels_it(open_dicom_studies, files):
    from fastapi import HTTPException

    series = save_series(files / "series", values(0), 0)
    (files / "series" / "02.dcm").unlink()
    with dicom_server(files) as (address, _), pytest.raises(HTTPException, match="the series cannot be segmented"):
        open_dicom_studies(address).get_image_uri(series)


def test_all_pages_of_a_search_are_read(open_dicom_studies, files):
    uids = [save_series(files / f"series_{number}", values(number), number) for number in range(5)]
    (files / "pages").touch()
    with dicom_server(files) as (address, _):
        assert sorted(open_dicom_studies(address).list_images()) == sorted(uids)


def test_what_was_said_before_is_taken_while_a_dicom_server_does_not_answer(open_dicom_studies, files, monkeypatch):
    from monai_cobot.label import dicom_studies

    series = save_series(files / "series", values(0), 0)
    with dicom_server(files) as (address, _):
        studies = open_dicom_studies(address)
        studies.get_image_uri(series)
    monkeypatch.setattr(dicom_studies, "_SECONDS_KEPT", 0)
    assert studies.list_images() == [series]
    assert Path(studies.get_image_uri(series)).is_file()


def test_a_segmentation_whose_metadata_cannot_be_had_is_asked_for_again(open_dicom_studies, files, monkeypatch):
    from monai_cobot.label import dicom_studies

    series = save_series(files / "series", values(0), 0)
    save_segmentation(files, files / "series", 2)
    (files / "secret").touch()
    monkeypatch.setattr(dicom_studies, "_SECONDS_KEPT", 0)
    with dicom_server(files) as (address, _):
        studies = open_dicom_studies(address)
        assert studies.get_labeled_images() == []
        (files / "secret").unlink()
        assert studies.get_labeled_images() == [series]


def test_slices_from_above_that_overlap_keep_their_places(open_dicom_studies, files, tmp_path):
    from monai_cobot.label.studies import labelled_images

    series = save_series(files / "series", values(0), 0, step=-2.5, thickness=5)
    with dicom_server(files) as (address, _):
        studies = open_dicom_studies(address)
        image = read_volume(studies.get_image_uri(series))
        assert np.array_equal(image.array[0], values(0)[::-1].T)
        label_file(studies, series, tmp_path / "label.nii.gz")
        studies.save_label(series, str(tmp_path / "label.nii.gz"), "final", {"label_info": [{"name": "ball"}]})
        (found,) = labelled_images(type(studies)(address, tmp_path / "elsewhere", {"Modality": "CT"}))
    assert np.array_equal(read_mask(found.label).array, read_mask(tmp_path / "label.nii.gz").array)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ([{"name": "Leber", "idx": 2}], {"Leber": 2}),
        ([{"name": "liver", "segmentIndex": 1}, {"name": "spleen", "segmentIndex": 2}], {"spleen": 2}),
        ([{"name": "肝臓"}], {"肝臓": 2}),
        ([{"name": "liver"}, {"name": "spleen"}], {"label 2": 2}),
        (None, {"label 2": 2}),
    ],
)
def test_labels_are_called_as_the_client_calls_them_and_not_as_might_be_guessed(
    open_dicom_studies, files, tmp_path, sent, kept
):
    from monai_cobot.label.studies import labelled_images

    series = save_series(files / "series", values(0), 0)
    with dicom_server(files) as (address, _):
        studies = open_dicom_studies(address)
        label_file(studies, series, tmp_path / "label.nii.gz", value=2)
        studies.save_label(series, str(tmp_path / "label.nii.gz"), "final", {"label_info": sent})
        (here,) = labelled_images(studies)
        (elsewhere,) = labelled_images(type(studies)(address, tmp_path / "elsewhere", {"Modality": "CT"}))
    (name,) = kept
    assert here.values == (kept if name != "label 2" else {})
    assert elsewhere.values == {name: 1}


def test_images_of_one_patient_are_known_as_such(open_dicom_studies, files):
    from monai_cobot.label.studies import labelled_images

    for name, number in (("first", 1), ("again", 1), ("other", 2)):
        save_series(files / name, values(number), number)
        save_segmentation(files, files / name, 2)
    with dicom_server(files) as (address, _):
        found = labelled_images(open_dicom_studies(address))
    assert sorted(image.patient for image in found) == ["1", "1", "2"]
