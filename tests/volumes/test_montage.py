from pathlib import Path

import numpy as np
import pytest

from lungunet.data.overlay import PRED_RGB, TRUTH_RGB
from lungunet.errors import ConfigError, GeometryError
from lungunet.volumes.grid import Grid
from lungunet.volumes.montage import draw_montage
from lungunet.volumes.volume import Volume

SHAPE, SPACING = (20, 48, 64), (5.0, 2.0, 1.0)  # 100 mm tall, 96 from front to back, 64 across


def volume(array):
    return Volume(array, Path("a.nii"), "a", Grid.axial(array.shape, SPACING))


def panel(sheet, row, column):
    return sheet[row * 400 : (row + 1) * 400, column * 400 : (column + 1) * 400]


def extent(picture):
    """Height and width of what is not black."""
    seen = picture.max(axis=-1) > 0
    return int(seen.any(1).sum()), int(seen.any(0).sum())


def bright_box(**sides):
    """Tissue with one bright block, and no lung."""
    hu = np.full(SHAPE, -600, np.int16)
    box = [slice(None)] * 3
    for name, part in sides.items():
        box["zyx".index(name)] = part
    hu[tuple(box)] = 1000
    return hu


def centre_of(picture):
    """Row and column of the bright block, as shares of the panel's extent."""
    height, width = extent(picture)
    places = np.argwhere(picture.min(axis=-1) > 250)
    return places.mean(axis=0) / (height, width)


NONE = np.zeros(SHAPE, np.uint8)


class TestPlanes:
    def test_proportions_are_those_of_the_body(self):
        sheet = draw_montage(volume(bright_box()), NONE)
        assert sheet.shape == (800, 1200, 3)
        assert extent(panel(sheet, 0, 0)) == (400, round(400 * 64 / 96))  # axial
        assert extent(panel(sheet, 1, 0)) == (400, round(400 * 64 / 100))  # coronal
        assert extent(panel(sheet, 1, 1)) == (400, round(400 * 96 / 100))  # sagittal

    def test_the_head_is_up(self):
        """z counts from the feet."""
        sheet = draw_montage(volume(bright_box(z=slice(15, 20))), NONE)
        for column in (0, 1):
            row, _ = centre_of(panel(sheet, 1, column))
            assert row < 0.2

    def test_the_patients_right_is_on_the_left(self):
        """Columns count from the patient's right, and rows from the front."""
        sheet = draw_montage(volume(bright_box(x=slice(0, 6))), NONE)
        for row, column in ((0, 0), (1, 0)):
            assert centre_of(panel(sheet, row, column))[1] < 0.1

    def test_the_front_is_up_and_in_sagittal_planes_on_the_left(self):
        sheet = draw_montage(volume(bright_box(y=slice(0, 6))), NONE)
        assert centre_of(panel(sheet, 0, 0))[0] < 0.2
        assert centre_of(panel(sheet, 1, 1))[1] < 0.2

    def test_planes_go_through_the_lungs(self):
        """Outlines show in all six panels of lungs that fill a corner of the scan."""
        classes = NONE.copy()
        classes[12:18, 30:40, 4:12] = 1
        classes[12:18, 30:40, 50:60] = 2
        sheet = draw_montage(volume(bright_box()), classes)
        orange = (sheet == np.array(PRED_RGB, np.uint8)).all(axis=-1)
        for row in range(2):
            for column in range(3):
                assert panel(orange[..., None], row, column).any()

    @pytest.mark.parametrize(
        ("depth", "shape"), [(1, (400, 400, 3)), (2, (400, 800, 3)), (3, (800, 1200, 3))]
    )
    def test_thin_scans_have_axial_planes_alone(self, depth, shape):
        """15 mm of 96 can be seen from the front, 10 mm are a line on a black page."""
        hu = bright_box()[:depth]
        sheet = draw_montage(volume(hu), NONE[:depth])
        assert sheet.shape == shape

    def test_axial_planes_hold_the_fullest(self):
        classes = NONE.copy()
        classes[2:19, 30:34, 10:14] = 1
        classes[16, 20:40, 10:50] = 1
        sheet = draw_montage(volume(bright_box(z=slice(16, 17))), classes)
        bright = [panel(sheet, 0, n)[20:380, 20:260].mean() > 200 for n in range(3)]
        assert bright == [True, False, False]  # slices 16, 14 and 6

    def test_red_slices_are_shown_once_and_said_to_be_red(self):
        classes = NONE.copy()
        classes[2:19, 30:34, 10:14] = 1
        hu = volume(bright_box(z=slice(7, 8)))
        plain = draw_montage(hu, classes)  # the fullest is slice 2; slices 14 and 6 beside it
        sheet = draw_montage(hu, classes, red=[7, 6])
        assert sheet.shape == (1200, 1200, 3)
        assert panel(sheet, 2, 0)[20:380, 20:260].mean() > 200  # slice 7
        assert not panel(sheet, 2, 1).any()
        changed = (sheet[:800] != plain).any(axis=-1)  # the word beside "axial 6"
        assert changed.any()
        assert not changed[22:].any()
        assert len(np.unique(np.flatnonzero(changed.any(axis=0)) // 400)) == 1

    @pytest.mark.parametrize("plane", [20, -1])
    def test_a_red_plane_that_is_none(self, plane):
        with pytest.raises(ConfigError, match=f"^red plane {plane}: a has axial planes 0 to 19"):
            draw_montage(volume(bright_box()), NONE, red=[3, plane])

    @pytest.mark.parametrize("shape", [(19, 48, 64), (20, 24, 64), (48, 64)])
    def test_classes_of_another_shape(self, shape):
        with pytest.raises(GeometryError, match=r"^classes: the array is .*a is \(20, 48, 64\)"):
            draw_montage(volume(bright_box()), np.ones(shape, np.uint8))

    def test_a_lung_alone_is_in_every_plane(self):
        classes = NONE.copy()
        classes[4:16, 10:40, 40:60] = 1
        sheet = draw_montage(volume(bright_box()), classes)
        orange = (sheet == np.array(PRED_RGB, np.uint8)).all(axis=-1)
        for column in range(3):
            assert panel(orange[..., None], 1, column).any()

    def test_every_class_above_0_is_outlined(self):
        lung = NONE.copy()
        lung[4:16, 10:40, 40:60] = 1
        plain = draw_montage(volume(bright_box()), lung)
        assert np.array_equal(draw_montage(volume(bright_box()), lung * np.int16(256)), plain)
        below = draw_montage(volume(bright_box()), np.where(lung, -1, 0))
        assert not (below == np.array(PRED_RGB, np.uint8)).all(axis=-1).any()

    def test_sides_have_colours(self):
        classes = NONE.copy()
        classes[5:15, 10:40, 40:60] = 1
        classes[5:15, 10:40, 8:20] = 2
        both = draw_montage(volume(bright_box()), classes, sides=True)
        untold = draw_montage(volume(bright_box()), 3 * (classes > 0), sides=True)
        plain = draw_montage(volume(bright_box()), classes)
        for rgb, shown in (
            (TRUTH_RGB, (True, False, False)),
            (PRED_RGB, (True, False, True)),
            ((255, 80, 220), (False, True, False)),
        ):
            drawn = [
                (one == np.array(rgb, np.uint8)).all(axis=-1).any() for one in (both, untold, plain)
            ]
            assert tuple(drawn) == shown
        blue = (panel(both, 0, 1) == np.array(TRUTH_RGB, np.uint8)).all(axis=-1)
        assert np.argwhere(blue)[:, 1].min() > 133  # the patient's left is on the right

    @pytest.mark.parametrize("level", [-1000, 1000])
    def test_labels_are_white_on_black(self, level):
        """On air and on bone alike, R and A too."""
        sheet = draw_montage(volume(np.full(SHAPE, level, np.int16)), NONE)
        for row, column in ((0, 0), (1, 0), (1, 1)):
            for place in (slice(0, 22), slice(180, 220)):
                corner = panel(sheet, row, column)[place, :16]
                assert corner.min() == 0
                assert corner.max() > 200

    def test_long_lines_are_wrapped(self):
        words = "lungs 4321 mL, -800 HU on average; red " * 2
        hu = bright_box()[:1]
        plain = draw_montage(volume(hu), NONE[:1])
        sheet = draw_montage(volume(hu), NONE[:1], lines=[words])
        assert len(sheet) - len(plain) == 2 * 22
        assert not sheet[: len(sheet) - len(plain), -6:].any()

    def test_lines_of_text_are_above(self):
        plain = draw_montage(volume(bright_box()), NONE)
        sheet = draw_montage(volume(bright_box()), NONE, lines=["a", "1234 mL"])
        head = len(sheet) - len(plain)
        assert np.array_equal(sheet[head:], plain)
        assert all(half.any() for half in np.split(sheet[:head], 2))

    def test_leaves_its_inputs_alone(self):
        hu, classes = bright_box(), NONE.copy()
        classes[5:9, 5:9, 5:9] = 1
        before = hu.copy(), classes.copy()
        draw_montage(volume(hu), classes)
        assert np.array_equal(hu, before[0])
        assert np.array_equal(classes, before[1])
