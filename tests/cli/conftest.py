"""What verbs on scans are tested with."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, generate_uid


@pytest.fixture
def two_series(tmp_path: Path) -> Path:
    """A DICOM folder with two series of one slice each, so that nobody knows which is meant."""
    folder = tmp_path / "two-series"
    folder.mkdir()
    for uid in ("1.2.3", "4.5.6"):
        ds = pydicom.Dataset()
        ds.file_meta = pydicom.dataset.FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
        ds.Modality, ds.SeriesInstanceUID = "CT", uid
        ds.Rows, ds.Columns, ds.PixelSpacing = 4, 6, [0.8, 0.7]
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
        ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
        ds.PixelData = np.zeros((4, 6), "<i2").tobytes()
        ds.save_as(folder / f"{uid}.dcm", enforce_file_format=True)
    return folder
