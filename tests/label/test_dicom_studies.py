"""Studies on a DICOM server, without a server of MONAI Label's."""

import threading
from pathlib import Path

import numpy as np
import pytest
from dicom_server import dicom_server, save_series

from monai_cobot.data import read_mask, read_volume
from monai_cobot.data.dicom_seg import write_dicom_seg
from monai_cobot.label.server import accept_pydicom_3


@pytest.fixture
def open_dicom_studies(monailabel, tmp_path: Path):
    accept_pydicom_3()
    from monailabel.datastore.dicom import DICOMwebClientX, DICOMWebDatastore

    from monai_cobot.label.studies import for_several_threads

    opened = []

    def open_at(address: str):
        client = DICOMwebClientX(url=address)
        store = DICOMWebDatastore(client, {"Modality": "CT"}, cache_path=str(tmp_path / "cache"))
        opened.append(store)
        return for_several_threads(store)

    yield open_at
    for store in opened:
        store._observer.stop()
        store._observer.join()


def values(number: int) -> np.ndarray:
    """(K, J, I)"""
    return np.random.default_rng(number).integers(-200, 300, (6, 12, 10)).astype(np.int16)


def test_images_with_a_segmentation_on_a_dicom_server_can_be_trained_on(open_dicom_studies, tmp_path):
    pytest.importorskip("highdicom", reason='DICOM SEG needs the extra "dicom"')
    from monai_cobot.label.studies import labelled_images

    truths = {}
    for number in range(3):
        folder = tmp_path / "files" / f"series_{number}"
        series = save_series(folder, values(number), number)
        if number < 2:
            volume = read_volume(folder)
            mask = np.zeros(volume.array.shape[1:], dtype=np.uint8)
            mask[2 + number : 6, 3:8, 2:4] = 1  # other slices are empty, which DICOM SEG leaves out
            write_dicom_seg(mask, volume, tmp_path / "files" / f"seg_{number}.dcm", {1: "ball"})
            truths[series] = mask
    with dicom_server(tmp_path / "files") as (address, _):
        found = labelled_images(open_dicom_studies(address))
    assert sorted(image.name for image in found) == sorted(truths)
    for image in found:
        label = read_mask(image.label)
        assert np.array_equal(label.array[0], truths[image.name])
        assert np.allclose(label.affine, read_volume(image.image).affine)


def test_an_image_of_a_dicom_server_is_downloaded_once_by_however_many_threads_ask_for_it(open_dicom_studies, tmp_path):
    series = save_series(tmp_path / "files" / "series", values(0), 0)
    with dicom_server(tmp_path / "files", seconds=0.5) as (address, downloaded):
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
