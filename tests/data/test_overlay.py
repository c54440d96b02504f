import numpy as np
import pytest

from lungunet.data.overlay import (
    PRED_RGB,
    TRUTH_RGB,
    add_lines,
    draw_overlay,
    show_grey,
    tile_pictures,
)
from lungunet.data.window import LUNG_WINDOW
from lungunet.errors import ConfigError, DataError, GeometryError
from lungunet.phantom.phantom import phantom_slice

GREY = np.random.default_rng(0).integers(0, 60, (40, 50), np.uint8)


def box(top, left, bottom, right, value=1):
    classes = np.zeros(GREY.shape, np.uint8)
    classes[top:bottom, left:right] = value
    return classes


def ring(classes):
    """Pixels of a region with a neighbour (up, down, left, right) outside it."""
    region = np.pad(classes > 0, 1)
    inner = region[:-2, 1:-1] & region[2:, 1:-1] & region[1:-1, :-2] & region[1:-1, 2:]
    return (classes > 0) & ~inner


def where(rgb, colour):
    return (rgb == np.array(colour, np.uint8)).all(-1)


class TestOverlay:
    def test_truth_is_blue_and_prediction_orange(self):
        assert TRUTH_RGB[2] > TRUTH_RGB[0]
        assert PRED_RGB[0] > PRED_RGB[2]
        truth, pred = box(5, 6, 20, 30), box(25, 8, 35, 45)
        rgb = draw_overlay(GREY, truth=truth, pred=pred)
        assert rgb.dtype == np.uint8
        assert rgb.shape == (40, 50, 3)
        assert np.array_equal(where(rgb, TRUTH_RGB), ring(truth))
        assert np.array_equal(where(rgb, PRED_RGB), ring(pred))

    def test_the_slice_shows_inside_and_outside(self):
        truth = box(5, 6, 20, 30)
        rgb = draw_overlay(GREY, truth=truth)
        rest = ~ring(truth)
        for channel in range(3):
            assert np.array_equal(rgb[..., channel][rest], GREY[rest])

    def test_where_both_agree_the_prediction_is_on_top(self):
        both = box(5, 6, 20, 30)
        rgb = draw_overlay(GREY, truth=both, pred=both)
        assert np.array_equal(where(rgb, PRED_RGB), ring(both))
        assert not where(rgb, TRUTH_RGB).any()

    def test_every_class_has_its_own_outline(self):
        classes = np.maximum(box(5, 5, 20, 15), box(5, 15, 20, 25, value=2))
        drawn = where(draw_overlay(GREY, truth=classes), TRUTH_RGB)
        assert np.array_equal(drawn, ring(classes == 1) | ring(classes == 2))

    def test_holes_are_outlined_too(self):
        classes = box(5, 5, 30, 30)
        classes[12:20, 12:20] = 0
        drawn = where(draw_overlay(GREY, truth=classes), TRUTH_RGB)
        assert drawn[11, 15]
        assert not drawn[15, 15]

    @pytest.mark.parametrize("dtype", ["uint8", "int64", "bool"])
    def test_dtypes_and_views(self, dtype):
        truth = box(5, 6, 20, 30).astype(dtype)
        expected = draw_overlay(GREY, truth=truth)[:, ::-1]
        assert np.array_equal(draw_overlay(GREY[:, ::-1], truth=truth[:, ::-1]), expected)

    @pytest.mark.parametrize("shape", [(40, 49), (20, 50), (80, 100), (40, 1), (1, 40, 50)])
    @pytest.mark.parametrize("name", ["truth", "pred"])
    def test_a_mask_of_another_size(self, name, shape):
        masks = {name: np.ones(shape, np.uint8)}
        with pytest.raises(GeometryError, match=rf"^{name}: the mask is .*the slice is \(40, 50\)"):
            draw_overlay(GREY, **masks, ignore_index=255)

    def test_nothing_to_draw(self):
        rgb = draw_overlay(GREY, truth=np.zeros_like(GREY), pred=None)
        assert np.array_equal(rgb, np.stack([GREY] * 3, -1))

    def test_leaves_its_inputs_alone(self):
        grey, truth = GREY.copy(), box(5, 6, 20, 30)
        draw_overlay(grey, truth=truth)
        assert np.array_equal(grey, GREY)
        assert np.array_equal(truth, box(5, 6, 20, 30))


class TestTile:
    @pytest.mark.parametrize(
        ("n", "columns", "shape"),
        [(1, 4, (32, 32)), (4, 4, (32, 128)), (5, 4, (64, 128)), (3, 1, (96, 32))],
    )
    def test_sheet(self, n, columns, shape):
        pictures = [np.full((16, 16, 3), 10 * (i + 1), np.uint8) for i in range(n)]
        sheet = tile_pictures(pictures, columns=columns, side=32)
        assert sheet.shape == (*shape, 3)
        columns = min(columns, n)
        for i in range(n):
            top, left = i // columns * 32, i % columns * 32
            assert (sheet[top : top + 32, left : left + 32] == 10 * (i + 1)).all()
        assert (sheet > 0).sum() == n * 32 * 32 * 3

    @pytest.mark.parametrize("setting", [{"columns": 0}, {"columns": -2}, {"side": 0}])
    def test_no_room(self, setting):
        with pytest.raises(ConfigError, match=r"^(columns|side)=(0|-2): must be at least 1\."):
            tile_pictures([np.zeros((16, 16, 3), np.uint8)], **setting)

    @pytest.mark.parametrize("shape", [(48, 64), (64, 48), (8, 16), (1, 1000), (1000, 1)])
    def test_proportions_are_kept(self, shape):
        sheet = tile_pictures([np.full((*shape, 3), 200, np.uint8)], side=32)
        rows, columns = ((sheet.max(-1) > 0).sum(axis).max() for axis in (0, 1))
        longer = max(shape)
        assert (rows, columns) == tuple(max(1, round(side * 32 / longer)) for side in shape)


class TestWithoutContract:
    hu = np.maximum(phantom_slice(0, 0.5, size=64).image[:50], -1024)

    def test_eight_bits_are_grey_already(self):
        assert show_grey(GREY) is GREY

    @pytest.mark.parametrize("stored", [
        lambda hu: hu,
        lambda hu: hu.astype(np.float32),
        lambda hu: (hu + 1024).astype(np.uint16),  # an offset
        lambda hu: hu.view(np.uint16),  # an unsigned wrap
    ])  # fmt: skip
    def test_hu_are_shown_as_lungs_are_looked_at_however_stored(self, stored):
        np.testing.assert_array_equal(show_grey(stored(self.hu)), LUNG_WINDOW.to_grey(self.hu))

    def test_other_values_are_stretched_to_fit(self):
        values = np.array([[20_000, 30_000, 40_000]], np.uint16)
        assert show_grey(values).tolist() == [[0, 128, 255]]
        assert show_grey(values.astype(">u2")).tolist() == [[0, 128, 255]]
        assert show_grey(np.full((1, 2), 7, np.uint16)).tolist() == [[128, 128]]


def test_what_is_ignored_is_hatched_and_has_no_outline():
    grey = np.full((60, 80), 90, np.uint8)
    truth = np.zeros((60, 80), np.uint8)
    truth[10:50, 10:40] = 255
    truth[30:55, 60:75] = 1
    drawn = draw_overlay(grey, truth=truth, ignore_index=255)
    inside = (drawn[10:50, 10:40] == TRUTH_RGB).all(axis=-1)
    assert 0.1 < inside.mean() < 0.3  # lines, and what lies under them can be seen
    assert all(row.any() for row in inside)
    assert (drawn[30, 60] == TRUTH_RGB).all()  # lung is outlined as ever
    assert np.array_equal(drawn[:, 41:55], np.full((60, 14, 3), 90))
    plain = draw_overlay(grey, truth=np.where(truth == 1, truth, 0))
    untouched = truth != 255
    assert np.array_equal(drawn[untouched], plain[untouched])


class TestText:
    @staticmethod
    def drawn(text):
        return add_lines(np.zeros((4, 160, 3), np.uint8), [text])

    @pytest.mark.parametrize(("one", "other"), [
        ("病例001", "病例002"), ("甲", "乙"), ("Иван", "Олег"), ("André", "Andrè"), ("か", "가"),
    ])  # fmt: skip
    def test_names_are_told_apart_and_are_no_question_marks(self, one, other):
        assert not np.array_equal(self.drawn(one), self.drawn(other))
        for name in (one, other):
            asked = "".join("?" if ord(letter) > 127 else letter for letter in name)
            assert not np.array_equal(self.drawn(name), self.drawn(asked))

    def test_accents_of_macos(self):
        assert np.array_equal(self.drawn("Andre\N{COMBINING ACUTE ACCENT}"), self.drawn("André"))

    def test_names_that_are_no_unicode(self):
        assert np.array_equal(self.drawn("a\udce4b"), self.drawn("a?b"))


def test_refuses_what_makes_no_picture():
    with pytest.raises(DataError, match=r"^grey: int16 of shape \(4, 5\), this draws on"):
        draw_overlay(np.zeros((4, 5), np.int16))
    with pytest.raises(DataError, match=r"^grey: uint8 of shape \(4, 5, 3\), this draws on"):
        draw_overlay(np.zeros((4, 5, 3), np.uint8))
    with pytest.raises(DataError, match=r"^pictures: none to lay out"):
        tile_pictures([])
