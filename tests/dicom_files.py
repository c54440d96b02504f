"""DICOM as scanners write it, made by pydicom for tests."""

import numpy as np
import pydicom
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

SHAPE, SPACING = (5, 48, 64), (2.5, 0.8, 0.7)
HU = np.random.default_rng(3).integers(-1024, 1500, SHAPE).astype(np.int16)
AXIAL = (1, 0, 0, 0, 1, 0)
SERIES = "1.2.3.4"


def dicom_slice(plane, position, *, orientation=AXIAL, implicit=False, **tags):
    """One CT slice with a stored offset of 1024, as scanners write it."""
    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
    ds.PatientName, ds.PatientID, ds.Modality = "Doe^Jane", "4711", "CT"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3", SERIES
    ds.Rows, ds.Columns = plane.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.PixelSpacing, ds.SliceThickness = [SPACING[1], SPACING[2]], 3.5
    ds.ImagePositionPatient = [float(v) for v in position]
    ds.ImageOrientationPatient = [float(v) for v in orientation]
    ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
    ds.PixelData = (plane.astype(np.int32) + 1024).astype("<i2").tobytes()
    for name, value in tags.items():
        if value is None:
            delattr(ds, name)
        else:
            setattr(ds, name, value)
    return ds


def dose_report():
    ds = dicom_slice(HU[0], (0, 0, 0), Modality="SR", PixelData=None)
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.67"
    return ds


def save(ds, path):
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.save_as(path, enforce_file_format=True)
    return path


def series(folder, hu=HU, *, names=None, step_mm=SPACING[0], **options):
    """Write a series from feet to head; ``names`` in the order of the slices."""
    folder.mkdir(exist_ok=True)
    names = names or [f"{i}.dcm" for i in range(len(hu))]
    for i, (plane, name) in enumerate(zip(hu, names, strict=True)):
        save(dicom_slice(plane, (-30.5, -20.25, 100 + i * step_mm), **options), folder / name)
    return folder


def enhanced(path, *, order=(3, 0, 4, 1, 2), intercepts=None, **tags):
    """All slices as frames of one file, each with its position; the rest is said for all."""
    ds = dicom_slice(HU[0], (0, 0, 0), **tags)
    kept = {name: ds[name] for name in ("PixelSpacing", "SliceThickness", "RescaleSlope")}
    kept |= {name: ds[name] for name in ("ImageOrientationPatient", "RescaleIntercept")}
    for name in (*kept, "ImagePositionPatient"):
        delattr(ds, name)
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    ds.NumberOfFrames = len(order)
    ds.PixelData = (HU[list(order)].astype(np.int32) + 1024).astype("<i2").tobytes()

    def group(**tags):
        item = pydicom.Dataset()
        for name, value in tags.items():
            setattr(item, name, value)
        return [item]

    def rescale(intercept):
        return group(RescaleSlope=1, RescaleIntercept=intercept, RescaleType="HU")

    shared, frames = pydicom.Dataset(), []
    shared.PixelMeasuresSequence = group(PixelSpacing=[0.8, 0.7], SliceThickness=3.5)
    shared.PlaneOrientationSequence = group(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    if intercepts is None:
        shared.PixelValueTransformationSequence = rescale(-1024)
    for index, z in enumerate(order):
        frame = pydicom.Dataset()
        position = [-30.5, -20.25, 100 + z * SPACING[0]]
        frame.PlanePositionSequence = group(ImagePositionPatient=position)
        if intercepts is not None:
            frame.PixelValueTransformationSequence = rescale(intercepts[index])
        frames.append(frame)
    ds.SharedFunctionalGroupsSequence = [shared]
    ds.PerFrameFunctionalGroupsSequence = frames
    return save(ds, path)


def edit(path, **tags):
    ds = pydicom.dcmread(path)
    for name, value in tags.items():
        setattr(ds, name, value)
    ds.save_as(path)
