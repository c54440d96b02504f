"""The phantom: same seed, same bytes; masks that are exact; no threshold that solves it."""

from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np
import pytest

from lungunet.errors import ConfigError
from lungunet.phantom.anatomy import make_patient
from lungunet.phantom.chart import Tissue
from lungunet.phantom.phantom import draw_chest, phantom_slice, phantom_slices, write_phantoms

PATIENTS = range(6)


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def smooth(image):
    return cv2.blur(image.astype(np.float32), (3, 3))


def body_of(image):
    """Fill the outline of the largest thing denser than -300 HU."""
    dense = (smooth(image) > -300).astype(np.uint8)
    contours, _ = cv2.findContours(dense, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros_like(dense)
    cv2.drawContours(filled, [max(contours, key=cv2.contourArea)], -1, 1, cv2.FILLED)
    return filled.astype(bool)


def without_border_parts(found):
    _, labels = cv2.connectedComponents(found.astype(np.uint8), connectivity=4)
    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    return found & ~np.isin(labels, np.unique(border))


# --- same inputs, same bytes


def test_a_slice_is_the_same_bytes_whatever_was_made_between():
    first = phantom_slice(3, 0.4, size=97, seed=5)
    for number in range(10):  # more than any cache of patients holds
        phantom_slice(number, 0.4, size=32, seed=6)
    again = phantom_slice(3, 0.4, size=97, seed=5)
    assert first.image.tobytes() == again.image.tobytes()
    assert first.mask.tobytes() == again.mask.tobytes()


def test_a_slice_does_not_depend_on_how_many_are_made():
    few = {s.name: s for s in phantom_slices(patients=2, slices=2, size=48)}
    many = {s.name: s for s in phantom_slices(patients=3, slices=5, size=48)}
    assert len(few) == 4
    assert len(many) == 15
    for name, made in few.items():
        np.testing.assert_array_equal(made.image, many[name].image)
        np.testing.assert_array_equal(made.mask, many[name].mask)


@pytest.mark.parametrize("other", [{"seed": 1}, {"patient_number": 1}, {"z": 0.55}])
def test_seed_patient_and_height_each_change_image_and_mask(other):
    first = phantom_slice(0, 0.5, size=96)
    second = phantom_slice(**{"patient_number": 0, "z": 0.5, "size": 96, "seed": 0} | other)
    assert (first.image != second.image).mean() > 0.5
    assert not np.array_equal(first.mask, second.mask)


def test_noise_differs_between_slices_of_almost_one_height():
    a, b = (phantom_slice(0, z, size=256) for z in (0.51, 0.51 + 1e-9))
    np.testing.assert_array_equal(a.mask, b.mask)
    grain = np.diff(a.image.astype(int) - b.image, axis=1)  # without what varies slowly
    assert grain[a.mask[:, 1:] > 0].std() > 10


# --- what a slice holds


@pytest.mark.parametrize("size", [32, 97, 256])
def test_shape_dtype_and_values(size):
    made = phantom_slice(2, 0.45, size=size)
    assert made.patient == "patient-002"
    assert made.image.shape == made.mask.shape == (size, size)
    assert made.image.dtype == np.int16
    assert made.mask.dtype == np.uint8
    assert set(np.unique(made.mask)) == {0, 255}
    assert made.image.max() > 250  # bone
    assert made.image.max() <= 3071


def test_names_carry_patient_and_slice():
    made = list(phantom_slices(patients=2, slices=2, size=32))
    assert [(s.patient, s.name) for s in made] == [
        ("patient-000", "patient-000_slice-00"),
        ("patient-000", "patient-000_slice-01"),
        ("patient-001", "patient-001_slice-00"),
        ("patient-001", "patient-001_slice-01"),
    ]


@pytest.mark.parametrize("number", PATIENTS)
def test_lung_is_one_side_each_and_has_the_density_of_lung(number):
    made = phantom_slice(number, 0.65, size=160)
    lung = made.mask > 0
    _, _, stats, centroids = cv2.connectedComponentsWithStats(made.mask)
    large = [c for s, c in zip(stats[1:], centroids[1:], strict=True) if s[cv2.CC_STAT_AREA] > 800]
    assert sorted(x > 80 for x, _ in large) == [False, True]
    assert 0.12 < lung.mean() < 0.45
    assert -900 < np.median(made.image[lung]) < -650
    assert -870 < made.image[lung].mean() < -600


@pytest.mark.parametrize("z", [0.0, 0.08, 0.94, 1.0])
def test_no_lung_below_the_diaphragm_and_above_the_apex(z):
    for number in PATIENTS:
        made = phantom_slice(number, z, size=96)
        assert not made.mask.any()
        assert body_of(made.image).mean() > 0.2


def test_a_few_slices_hold_no_lung():
    empty = [not made.mask.any() for made in phantom_slices(patients=12, slices=8, size=32)]
    assert 0.03 < np.mean(empty) < 0.25


@pytest.mark.parametrize("z", [0.2, 0.4, 0.6, 0.85])
def test_lung_lies_inside_the_body(z):
    for number in PATIENTS:
        made = phantom_slice(number, z, size=160)
        assert made.mask.any()
        assert not (made.mask.astype(bool) & ~body_of(made.image)).any()


def test_lung_is_denser_at_the_back():
    gaps = []
    for number in PATIENTS:
        made = phantom_slice(number, 0.6, size=128)
        rows, columns = np.nonzero(made.mask)
        hu = made.image[rows, columns]
        front, back = np.quantile(rows, [1 / 3, 2 / 3])
        gaps.append(np.median(hu[rows > back]) - np.median(hu[rows < front]))
    assert min(gaps) > 5
    assert max(gaps) > 50


def test_some_patients_are_padded_around_the_scanners_circle():
    corners = [set(phantom_slice(n, 0.5, size=64).image[:4, :4].ravel()) for n in range(12)]
    padded = [corner == {-2000} for corner in corners]
    assert 0 < sum(padded) < 12
    assert any(len(corner) > 4 for corner in corners)  # square slices show noisy air


# --- the mask is exact


def test_mask_fits_its_image_better_than_when_shifted():
    for number in PATIENTS:
        made = phantom_slice(number, 0.6, size=192)
        lung = made.mask > 0
        inside = made.image[lung].mean()
        for step in (-1, 1):
            for axis in (0, 1):
                assert made.image[np.roll(lung, step, axis)].mean() > inside + 3


def test_mask_is_the_same_shape_at_every_size():
    large = phantom_slice(1, 0.45, size=384).mask
    reduced = cv2.resize(large, (96, 96), interpolation=cv2.INTER_AREA) >= 128
    small = phantom_slice(1, 0.45, size=96).mask > 0
    assert iou(small, reduced) > 0.96
    assert small.sum() == pytest.approx(reduced.sum(), rel=0.025)


def test_neighbouring_heights_stack_to_a_volume():
    heights = np.arange(0.095, 0.94, 0.005)
    masks = [phantom_slice(1, float(z), size=96).mask > 0 for z in heights]
    areas = [mask.sum() for mask in masks]
    assert max((a ^ b).sum() for a, b in pairwise(masks)) < 0.05 * max(areas)
    assert areas[0] == areas[-1] == 0


def test_mask_is_the_lung_of_the_map_of_tissues():
    patient = make_patient(np.random.default_rng(8))
    bare = draw_chest(replace(patient, vessels=patient.vessels[:0]), 0.55, cells=256)
    full = draw_chest(patient, 0.55, cells=256)
    vessel = np.isin(full, [Tissue.TWIG, Tissue.VESSEL])
    hilum = (bare >= Tissue.LUNG) & (full == Tissue.BLOOD)
    assert vessel.sum() > 3 * hilum.sum() > 0
    assert (bare[vessel] >= Tissue.LUNG).all()  # small vessels stay lung, those of the hilum do not
    np.testing.assert_array_equal((full >= Tissue.LUNG) | hilum, bare >= Tissue.LUNG)


def test_vessels_inside_the_lung_belong_to_it():
    for number in PATIENTS:
        made = phantom_slice(number, 0.5, size=256)
        within = cv2.erode(made.mask, np.ones((7, 7), np.uint8)) > 0
        assert 0.002 < (smooth(made.image)[within] > -500).mean() < 0.2


@pytest.mark.parametrize("z", [0.2, 0.8])
def test_gas_of_the_belly_and_air_of_the_trachea_are_not_lung(z):
    for number in PATIENTS:
        made = phantom_slice(number, z, size=256)
        clear_of_lung = cv2.dilate(made.mask, np.ones((7, 7), np.uint8)) == 0
        deep = cv2.erode(body_of(made.image).astype(np.uint8), np.ones((15, 15), np.uint8)) > 0
        assert (smooth(made.image)[deep & clear_of_lung] < -800).sum() > 25


def test_effusion_lifts_the_lung_off_the_back():
    patient = replace(make_patient(np.random.default_rng(3)), effusion_mm=(0.0, 0.0))
    well = draw_chest(patient, 0.35, cells=256)
    ill = draw_chest(replace(patient, effusion_mm=(40.0, 0.0)), 0.35, cells=256)
    lost = (well >= Tissue.LUNG) & (ill < Tissue.LUNG)
    assert (ill[lost] == Tissue.FLUID).all()
    rows, columns = np.nonzero(lost)
    assert len(rows) > 500
    assert columns.max() < 128  # the patient's right is the image's left
    assert np.median(rows) > np.median(np.nonzero(well >= Tissue.LUNG)[0])


def test_nodule_belongs_to_the_lung():
    patient = replace(make_patient(np.random.default_rng(3)), nodules=np.zeros((0, 4)))
    ill = replace(patient, nodules=np.array([[-80.0, 10.0, 0.6 * 340, 12.0]]))
    without, with_nodule = (draw_chest(p, 0.6, cells=256) for p in (patient, ill))
    assert (with_nodule == Tissue.NODULE).sum() > 100
    np.testing.assert_array_equal(without >= Tissue.LUNG, with_nodule >= Tissue.LUNG)


def test_patients_differ_in_shape():
    masks = [phantom_slice(number, 0.6, size=96).mask > 0 for number in range(8)]
    assert max(iou(a, b) for i, a in enumerate(masks) for b in masks[:i]) < 0.97


# --- not a toy


@pytest.mark.parametrize(
    ("clean", "bound"), [(lambda found: found, 0.75), (without_border_parts, 0.85)]
)
def test_no_two_hu_bounds_find_the_lung(clean, bound):
    made = list(phantom_slices(patients=12, slices=4, size=96))
    truth = np.stack([s.mask > 0 for s in made])
    best = 0.0
    for low in range(-1100, -780, 40):
        for high in range(-700, -150, 100):
            found = np.stack([clean((s.image >= low) & (s.image <= high)) for s in made])
            best = max(best, iou(found, truth))
    assert 0.4 < best < bound


# --- files and errors


def test_write_phantoms_writes_pairs_that_read_back(tmp_path):
    seen = []

    def progress(iterable, *, desc, total):
        seen.append((desc, total))
        return iterable

    images, masks = write_phantoms(
        tmp_path / "new", patients=2, slices=2, size=48, seed=9, progress=progress
    )
    assert (images, masks) == (tmp_path / "new" / "images", tmp_path / "new" / "masks")
    made = list(phantom_slices(patients=2, slices=2, size=48, seed=9))
    assert sorted(p.name for p in images.iterdir()) == sorted(f"{s.name}.tif" for s in made)
    assert sorted(p.name for p in masks.iterdir()) == sorted(f"{s.name}.png" for s in made)
    for item in made:
        image = cv2.imread(str(images / f"{item.name}.tif"), cv2.IMREAD_UNCHANGED)
        mask = cv2.imread(str(masks / f"{item.name}.png"), cv2.IMREAD_UNCHANGED)
        assert image.dtype == np.int16
        np.testing.assert_array_equal(image, item.image)
        np.testing.assert_array_equal(mask, item.mask)
    assert seen == [("phantom slices", 4)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"z": 1.5}, r"z is 1\.5"),
        ({"z": float("nan")}, "z is nan"),
        ({"size": 31}, "size is 31"),
        ({"patient_number": -1}, "patient_number is -1"),
        ({"seed": -2}, "seed is -2"),
    ],
)
def test_values_out_of_range_are_named(wrong, message):
    with pytest.raises(ConfigError, match=message):
        phantom_slice(**{"patient_number": 0, "z": 0.5} | wrong)
