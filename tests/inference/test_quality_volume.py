"""Masks of scans judged without the truth: sums, neighbours, and the slices to look at."""

import numpy as np
import pytest

from lungunet import DataError, Predictor, check_slice, check_volume, segment_lungs
from lungunet.inference.quality import _area_jumps
from lungunet.phantom.phantom import phantom_slice

SPACING_MM = (20.0, 3.0, 3.0)
TOO_LITTLE = (
    "not a whole chest: lung is at most {} of the body (of a chest 8% or more), "
    "do not use the volume"
)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the rule be both opinions: a network has seen no lungs like boxes."""
    rule = Predictor.load("threshold")
    monkeypatch.setattr("lungunet.inference.doubt._load_opinion", lambda word: rule)


def scan(*, slices: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Return a block of tissue with two lungs that grow a row from slice to slice, and a mask."""
    hu = np.full((slices, 96, 128), -1000, np.int16)
    hu[:, 8:88, 8:120] = 40
    for index in range(slices):
        hu[index, 24 : 60 + index, 24:48] = hu[index, 24 : 60 + index, 80:104] = -850
    return hu, (hu == -850).astype(np.uint8)


def test_a_good_mask_is_green_in_every_slice() -> None:
    hu, mask = scan()
    found = check_volume(hu, mask, spacing_mm=SPACING_MM, disagreement=[0.01] * 7)
    assert (found.light, found.reasons) == ("green", ())
    assert [one.light for one in found.slices] == ["green"] * 7
    assert found.values["parts"] == 2
    assert found.values["scattered"] == 0
    assert found.values["mean_hu"] == pytest.approx(-850)
    assert found.values["mirror_difference"] == pytest.approx(0.01)
    assert found.values["lung_share"] == mask.mean()
    assert found.values["area_jump"] == pytest.approx(0)
    assert found.values["red_slices"] == 0
    assert found.values["expected_error"] is None


def test_a_slice_that_lost_a_lung_is_named() -> None:
    hu, mask = scan()
    mask[4, :, :64] = 0
    found = check_volume(hu, mask, spacing_mm=SPACING_MM)
    assert [one.light for one in found.slices] == ["green"] * 3 + ["amber", "red", "amber", "green"]
    # Rows of lung: 36 to 42 on each side, half of 40 is lost in a scan whose largest is 42. Slices
    # of 20 mm may taper by twice as much; but slice 4 lies below both its neighbours.
    jumps = [one.values["area_jump"] for one in found.slices]
    assert jumps == pytest.approx([0, 0, 0, 5 / 42, 19 / 42, 5 / 42, 0])
    thin = check_volume(hu, mask, spacing_mm=(4.0, 3.0, 3.0))
    jumps = [one.values["area_jump"] for one in thin.slices]
    assert jumps == pytest.approx([0, 0, 0, 10 / 42, 20 / 42, 10 / 42, 0])
    assert found.values["area_jump"] == pytest.approx(19 / 42)
    assert found.values["red_slices"] == pytest.approx(1 / 7)
    assert found.values["side_gap"] == pytest.approx(40 * 24 / (7 * 80 * 112), rel=0.06)
    assert found.light == "red"
    jump, red, missing = found.reasons[1:4]  # after the lung that is cut in two
    assert jump == (
        "slice 4 has less lung than the slices around it, by 45.2% of the largest "
        "(usually up to 10.0%)"
    )
    assert red == "14.3% of the slices with lung are red: 4 (usually up to 5.0%)"
    assert "mostly on the left of the picture, most in slice 4: the threshold" in missing
    assert found.reasons[-1].startswith(
        "slice 4: 50.0% of the lung is missing from the mask, mostly"
    )
    assert found.worst_slices == (4,)
    assert "slice 3" not in " ".join(found.reasons)


@pytest.mark.parametrize(
    ("rows", "slice_mm", "jumps"),
    [
        ([10, 20, 40, 40], 2.0, [0, -5, 10, 0]),  # where lung begins it grows faster and faster
        ([10, 20, 40, 40], 8.0, [0, -2.5, 5, 0]),
        ([40, 40, 30, 30, 30, 40], 2.0, [0, 5, -10, -10, -10, 0]),  # half a lung gone in a run
        ([40, 40, 30, 30, 30, 40], 8.0, [0, 2.5, -10, -10, -10, 0]),
        ([40, 40, 30, 30, 30, 40], 120.0, [0, 2.5, -2.5, 0, -2.5, 0]),  # too long to be one
        ([20, 30, 40, 34, 20], 8.0, [0, 0, 6, 2, 0]),  # the fullest exceeds both its neighbours
    ],
)
def test_lungs_taper_and_do_not_dip(rows: list[int], slice_mm: float, jumps: list[float]) -> None:
    found = _area_jumps(np.array(rows), least=1.0, slice_mm=slice_mm)
    assert [max(rows) * jump for jump in found] == pytest.approx(jumps)


def test_red_slices_are_a_share_of_those_with_lung() -> None:
    hu, mask = scan()
    hu[:3][mask[:3] > 0] = 30
    mask[:3] = 0
    mask[4, :, :64] = 0
    found = check_volume(hu, mask, spacing_mm=SPACING_MM)
    assert [one.light for one in found.slices].count("red") == 1 + 1  # and the one that stands out
    assert found.values["red_slices"] == pytest.approx(2 / 4)


def test_areas_are_compared_with_no_less_than_a_share_of_the_slice() -> None:
    hu, mask = scan(slices=3)
    mask[0] = mask[2] = 0
    mask[1] = np.pad(np.ones((10, 20), np.uint8), ((30, 56), (26, 82)))
    found = check_volume(hu, mask, spacing_mm=SPACING_MM)
    assert found.values["area_jump"] == pytest.approx(200 / (0.05 * 96 * 128))


def test_slices_are_judged_as_they_are_alone() -> None:
    hu, mask = scan(slices=1)
    mask[0, 70:74, 50:60] = 1
    found = check_volume(hu, mask, spacing_mm=SPACING_MM, disagreement=np.array([0.02]))
    alone = check_slice(hu[0], mask[0], disagreement=0.02).values
    one = dict(found.slices[0].values)
    assert one.pop("area_jump") == 0
    one["rule_difference"] = alone["rule_difference"]  # here the rule knows the size of a pixel
    assert one == alone
    assert found.values["scattered"] == alone["scattered"] == pytest.approx(40 / mask.sum())


@pytest.mark.parametrize("slices", [1, 3])
@pytest.mark.parametrize("finer", [2, 4])
def test_the_rule_is_asked_about_the_whole_scan(slices: int, finer: int) -> None:
    hu, _ = scan(slices=slices)
    hu[:, 76:84, 60:68] = -850  # 64 pixels of 2.25 mm2: lung in a stack, too small in a slice
    fine = np.repeat(np.repeat(hu, finer, axis=1), finer, axis=2)
    found = check_volume(fine, np.ones_like(fine), spacing_mm=(20.0, 1.5 / finer, 1.5 / finer))
    seen = np.repeat(np.repeat(hu, 2, axis=1), 2, axis=2)  # at 256 pixels
    rule = (
        segment_lungs(seen, spacing_mm=(20.0, 0.75, 0.75))
        if slices > 1
        else segment_lungs(seen[0], spacing_mm=(0.75, 0.75))[None]
    )
    assert rule[0, 160, 128] == (slices > 1)
    assert [one.values["rule_difference"] for one in found.slices] == pytest.approx(
        list(1 - rule.mean(axis=(1, 2)))
    )
    assert found.values["rule_difference"] == pytest.approx(1 - rule.mean())
    whole = check_volume(seen, rule, spacing_mm=(20.0, 0.75, 0.75))
    assert whole.values["rule_difference"] == 0


def test_sums_are_divided_once() -> None:
    hu, mask = scan(slices=3)
    mask[0] = 0
    mask[0, 30:40, 30:40] = 1
    found = check_volume(
        hu, mask, spacing_mm=SPACING_MM, disagreement=[0.5, 0.0, 0.0], second_opinion=False
    )
    lung = [100, 2 * 24 * 37, 2 * 24 * 38]
    assert found.values["mirror_difference"] == pytest.approx(0.5 * 100 / sum(lung))
    assert found.values["rule_difference"] is None
    assert found.values["lung_share"] == pytest.approx(sum(lung) / (3 * 96 * 128))


def test_parts_are_connected_through_the_slices() -> None:
    hu, mask = scan()
    hu[2:5, 75:80, 60:66] = -850
    mask[2:5, 75:80, 60:66] = 1  # 3 x 30 voxels, one part
    found = check_volume(hu, mask, spacing_mm=SPACING_MM, second_opinion=False)
    assert found.values["parts"] == 3
    assert found.values["scattered"] == pytest.approx(90 / mask.sum())


def test_slices_without_lung_and_an_empty_mask_are_green() -> None:
    hu, mask = scan()
    hu[mask > 0] = 30
    found = check_volume(hu, np.zeros_like(mask), spacing_mm=SPACING_MM)
    assert {one.light for one in found.slices} == {"green"}
    assert found.reasons == (f"{TOO_LITTLE.format('0.0%')}",)
    assert found.values["mean_hu"] is None
    assert found.values["red_slices"] == 0


def test_lungs_that_were_not_found_make_every_slice_red() -> None:
    hu, mask = scan()
    found = check_volume(hu, np.zeros_like(mask), spacing_mm=SPACING_MM)
    assert (found.light, found.values["red_slices"]) == ("red", 1)
    # The largest lungs are missed most.
    assert [reason[:7] for reason in found.reasons[-3:]] == ["slice 6", "slice 5", "slice 4"]


def test_a_phantom_scan_that_is_not_contiguous() -> None:
    made = [phantom_slice(2, z, size=96) for z in np.linspace(0.1, 0.9, 14)]
    hu = np.stack([one.image for one in made], axis=-1)
    mask = np.stack([one.mask for one in made], axis=-1) // 255
    spacing_mm = (0.8 * 340 / 13, 3.9, 3.9)
    good = check_volume(hu.transpose(2, 0, 1), mask.transpose(2, 0, 1), spacing_mm=spacing_mm)
    assert good.light != "red"
    assert good.values["red_slices"] == 0
    bad = check_volume(
        hu.transpose(2, 0, 1), mask.transpose(2, 0, 1)[:, ::-1], spacing_mm=spacing_mm
    )
    assert bad.light == "red"
    assert bad.worry > good.worry


def test_shapes_must_fit() -> None:
    hu, mask = scan()
    with pytest.raises(DataError, match=r"mask: shape \(6, 96, 128\), scan: shape \(7, 96, 128\)"):
        check_volume(hu, mask[:6], spacing_mm=SPACING_MM)
    with pytest.raises(DataError, match=r"scan: shape \(96, 128\)"):
        check_volume(hu[0], mask[0], spacing_mm=SPACING_MM)
    with pytest.raises(DataError, match="disagreement: 3 values for 7 slices"):
        check_volume(hu, mask, spacing_mm=SPACING_MM, disagreement=[0.0, 0.1, 0.2])
    for spacing in ((0.0, 1.0, 1.0), (0.0, -1.0, 1.0), (np.nan, 1.0, 1.0), (1.0, 1.0), 1.0):
        with pytest.raises(DataError, match=r"^spacing_mm .*: not three lengths above 0\."):
            check_volume(hu, mask, spacing_mm=spacing, second_opinion=False)


@pytest.mark.parametrize(
    ("slices", "spacing_mm", "ml", "little"),
    [
        (10, (5.0, 2.0, 2.0), 80 * 2 * 10 * 0.02, True),
        (10, (47.0, 2.0, 2.0), 80 * 2 * 10 * 0.188, False),
        (10, (2.9, 2.0, 2.0), None, False),  # 29 mm
        (9, (5.0, 2.0, 2.0), None, False),
    ],
)
def test_gas_is_too_little_to_be_the_lungs_of_a_scan(
    slices: int, spacing_mm: tuple[float, float, float], ml: float | None, little: bool
) -> None:
    hu = np.full((slices, 96, 128), -1000, np.int16)
    hu[:, 8:88, 8:120] = 40
    hu[:, 40:50, 44:52] = hu[:, 40:50, 76:84] = -850
    found = check_volume(
        hu, (hu == -850).astype(np.uint8), spacing_mm=spacing_mm, second_opinion=False
    )
    assert found.values["lung_ml"] == (None if ml is None else pytest.approx(ml))
    said = ["32 mL of lung in the whole scan (adults have 1,500 or more)"] if little else []
    assert found.reasons == (f"{TOO_LITTLE.format('1.7%')}", *said)
    assert (found.light, found.chest) == ("red", False)


class TestNoChest:
    def test_a_belly(self) -> None:
        """Of a belly the lungs' bases are in the scan, and gas."""
        hu, mask = scan(slices=12)
        hu[:9][mask[:9] > 0] = 30
        hu[:9, 30:42, 60:72] = -850
        mask = (hu == -850).astype(np.uint8)
        mask[9:] = 0  # two opinions see the bases
        found = check_volume(hu, mask, spacing_mm=(5.0, 3.0, 3.0))
        share = found.values["chest_share"]
        assert share is not None
        assert share == pytest.approx(3 / 6 * (45.5 * 48) / (80 * 112), rel=0.1)
        assert found.chest is (share >= 0.08)

    def test_a_lost_mask_is_no_belly(self) -> None:
        hu, mask = scan()
        found = check_volume(hu, np.zeros_like(mask), spacing_mm=SPACING_MM)
        assert (found.light, found.chest) == ("red", True)
        assert "no chest" not in " ".join(found.reasons)

    def test_a_single_slice(self) -> None:
        hu, mask = scan(slices=1)
        found = check_volume(hu, mask, spacing_mm=SPACING_MM)
        assert (found.light, found.chest) == ("red", False)
        assert found.reasons[0] == "no chest here: a single slice"

    @pytest.mark.parametrize(("slice_mm", "chest"), [(3.0, False), (9.0, True)])
    def test_pictures_from_the_front(self, slice_mm: float, chest: bool) -> None:
        """What begins in air and ends in air is a coronal stack, or a whole patient."""
        hu, mask = scan(slices=101)
        hu[:10] = hu[-10:] = -1000
        mask[:10] = mask[-10:] = 0
        hu[hu == -850] = -860
        found = check_volume(hu, mask, spacing_mm=(slice_mm, 3.0, 3.0), second_opinion=False)
        assert found.chest is chest
        why = "the body begins and ends within the scan, as in coronal or sagittal slices"
        assert (f"no chest here: {why}" in found.reasons) is not chest

    def test_a_chest_from_its_top_to_its_end(self) -> None:
        hu, mask = scan(slices=20)
        hu[15:] = -1000  # above the head of a child
        mask[15:] = 0
        assert check_volume(hu, mask, spacing_mm=SPACING_MM, second_opinion=False).chest


def test_a_slab_of_a_chest_is_no_whole_chest() -> None:
    made = phantom_slice(0, 0.5, size=64)
    hu, lungs = (np.stack([plane] * 2) for plane in (made.image, (made.mask > 0).view(np.uint8)))
    checked = check_volume(hu, lungs, spacing_mm=(1.0, 5.0, 5.0))
    assert (checked.light, checked.chest) == ("red", False)
    assert checked.reasons[0].startswith("not a whole chest: 2 slices, 2 mm of the body, do not")
    assert check_volume(hu, lungs, spacing_mm=(25.0, 5.0, 5.0)).chest


def test_air_that_is_no_lung_is_told_with_its_side() -> None:
    made = phantom_slice(0, 0.5, size=256)
    hu, lung = made.image.copy(), made.mask > 0
    left = lung & (np.arange(256) < 128)
    hu[left] = hu[:4].min()  # all of one lung
    reasons = check_slice(hu, lung.view(np.uint8)).reasons
    assert any(
        "as dark and even as open air, mostly on the left of the picture: pneumo" in reason
        for reason in reasons
    )
