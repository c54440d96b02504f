import warnings
from pathlib import Path

import numpy as np
import pytest

from lungunet.data.codec import LabelCodec
from lungunet.data.contract import InputContract
from lungunet.errors import ConfigError, DataError, LungUNetWarning
from lungunet.inference import scans, threshold
from lungunet.inference.predictor import Predictor
from lungunet.inference.scans import predict_volume
from lungunet.inference.segmenter import Segmented
from lungunet.inference.threshold import segment_lungs
from lungunet.phantom.phantom import phantom_slice
from lungunet.volumes.grid import Grid
from lungunet.volumes.volume import Volume

SPACING = (6.0, 5.0, 4.0)


def volume(array):
    return Volume(array, Path("scans/p1.nii"), "p1", Grid.axial(array.shape, SPACING))


@pytest.fixture(scope="module")
def chest():
    """Nine slices of a chest, lopsided: 52 rows, 64 columns."""
    planes = [phantom_slice(0, z, size=64).image[6:58] for z in np.linspace(0.2, 0.8, 9)]
    return volume(np.stack(planes))


class BySign:
    """A network that calls lung what lies below a limit, and depends on the side."""

    def __init__(self, codec=None, *, limit_hu=-300, dtypes=("int16", "float32"), skew=0):
        self.codec = codec or LabelCodec({0: 0, 1: 1})
        self.limit_hu, self.dtypes, self.skew = limit_hu, dtypes, skew
        self.batches = []

    contract, word, segment_volume = InputContract(64), "", None

    def prepare(self, image, where="slice"):
        if image.dtype.name not in self.dtypes:
            raise DataError(
                f"a slice of {image.dtype}, the model expects {self.dtypes[0]}.", where=where
            )
        return image

    def __call__(self, prepared):
        self.batches.append(len(prepared))
        return [Segmented.likeliest(self.probabilities(image)) for image in prepared]

    def probabilities(self, image):
        lung = image < self.limit_hu
        lung[:, : self.skew] = False
        shares = np.zeros((self.codec.n_classes, *image.shape), np.float32)
        shares[-1], shares[0] = lung, ~lung
        return shares


def raw(predictor, scan, **options):
    return predict_volume(predictor, scan, refine=False, **options)


class TestNetwork:
    @pytest.mark.parametrize("batch_size", [1, 4, 9, 20])
    def test_slice_after_slice_in_batches(self, chest, batch_size):
        segmenter = BySign()
        found = raw(Predictor(segmenter), chest, batch_size=batch_size)
        assert found.volume is chest
        assert found.classes.dtype == np.uint8
        assert np.array_equal(found.classes, chest.array < -300)
        assert found.disagreement is None
        assert max(segmenter.batches) == min(batch_size, 9)
        assert sum(segmenter.batches) == 9

    def test_is_what_the_predictor_says_of_each_slice(self, run, chest):
        predictor = Predictor.load(run, device="cpu")
        found = raw(predictor, chest, batch_size=4)
        one_by_one = [predictor.segment([plane])[0].classes for plane in chest.array]
        assert np.mean(found.classes == np.stack(one_by_one)) > 0.999

    def test_float_scans(self, chest):
        hu = volume(chest.array.astype(np.float32) + np.float32(0.25))
        assert np.array_equal(raw(Predictor(BySign()), hu).classes, chest.array < -300)

    def test_mirrored(self, chest):
        """With tta, lung is what both say; slice by slice 1 - IoU tells how far they differ."""
        found = raw(Predictor(BySign(skew=20), tta=True), chest, batch_size=2)
        dark = chest.array < -300
        left, right = dark.copy(), dark.copy()
        left[..., :20] = False
        right[..., -20:] = False
        assert np.array_equal(found.classes, left & right)
        for plane, one, other in zip(found.disagreement, left, right, strict=True):
            assert plane == pytest.approx(1 - (one & other).sum() / (one | other).sum())

    def test_other_classes_stay(self, chest):
        codec = LabelCodec({0: 0, 7: 1, 9: 2})
        found = predict_volume(Predictor(BySign(codec)), chest)
        assert np.array_equal(found.classes, (chest.array < -300) * 2)

    def test_progress_counts_batches(self, chest):
        told = []

        def progress(iterable, *, desc, total):
            told.append((desc, total))
            return iterable

        raw(Predictor(BySign()), chest, batch_size=4, progress=progress)
        assert told == [("p1", 3)]


class TestRefining:
    def test_is_what_anatomy_knows(self, chest):
        """A patch of the air around the body is no lung; the lungs stay."""
        lungs = segment_lungs(chest.array, spacing_mm=SPACING)
        rough = lungs.copy()
        rough[:, :2, :9] = 1
        masks = iter(rough)
        segmenter = BySign()
        segmenter.probabilities = lambda image: np.stack([1 - (mask := next(masks)), mask])
        found = predict_volume(Predictor(segmenter), chest, batch_size=4).classes
        assert not found[:, :2, :9].any()
        assert np.mean(found == lungs) > 0.98
        assert np.array_equal(found, scans.refine_volume(chest.array, rough, spacing_mm=SPACING))

    def test_is_not_done_where_hardly_anything_would_stay(self, chest, monkeypatch):
        dark = chest.array < -300
        monkeypatch.setattr(
            scans, "refine_volume", lambda hu, _, **__: np.zeros(hu.shape, np.uint8)
        )
        with pytest.warns(
            LungUNetWarning, match=r"p1\.nii: the mask is as the model gave it\..*100%"
        ):
            found = predict_volume(Predictor(BySign()), chest).classes
        assert np.array_equal(found, dark)

    @pytest.mark.parametrize("taken", [0.4, 0.6])
    def test_says_when_most_is_taken_away(self, chest, monkeypatch, taken):
        dark = chest.array < -300
        numbers = np.cumsum(dark).reshape(dark.shape)
        refined = (dark & (numbers > taken * dark.sum())).astype(np.uint8)
        monkeypatch.setattr(scans, "refine_volume", lambda *_, **__: refined)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = predict_volume(Predictor(BySign()), chest).classes
        assert np.array_equal(found, refined)
        if taken < 0.5:
            assert not said
        else:
            assert said[0].category is LungUNetWarning
            assert "p1.nii: 60% of the predicted lung was taken away" in str(said[0].message)

    def test_nothing_found_is_fine(self, chest):
        assert not predict_volume(Predictor(BySign(limit_hu=-5000)), chest).classes.any()


class TestThreshold:
    def test_sees_the_whole_scan_in_millimetres(self, chest):
        found = predict_volume(Predictor.load("threshold"), chest)
        expected = segment_lungs(chest.array, spacing_mm=SPACING)
        assert np.array_equal(found.classes, expected)
        assert expected.any()
        assert not np.array_equal(expected, np.stack([segment_lungs(p) for p in chest.array]))

    def test_a_single_slice_is_one(self):
        """Without slices above and below, a part of 144 mm2 is too small for a lung."""
        hu = np.full((1, 64, 96), -1000, np.int16)
        hu[0, 8:56, 8:88] = 40
        hu[0, 16:48, 16:40] = hu[0, 16:48, 56:80] = -850
        hu[0, 26:38, 42:54] = -850
        single = Volume(hu, Path("a.nii"), "a", Grid.axial(hu.shape, (5.0, 1.0, 1.0)))
        found = predict_volume(Predictor.load("threshold"), single).classes
        assert np.array_equal(found[0], segment_lungs(hu[0], spacing_mm=(1.0, 1.0)))
        assert not found[0, 28:36, 44:52].any()
        assert found[0, 20:44, 20:36].all()

    def test_mirrored(self, chest, monkeypatch):
        """The rule is symmetric, so one that is not stands in for it."""

        def rule(hu, *, spacing_mm):
            assert spacing_mm == SPACING
            return (hu < -300).astype(np.uint8) * (np.arange(64) >= 20).astype(np.uint8)

        monkeypatch.setattr(threshold, "segment_lungs", rule)
        found = predict_volume(Predictor.load("threshold", tta=True), chest)
        once = rule(chest.array, spacing_mm=SPACING)
        again = rule(chest.array[..., ::-1], spacing_mm=SPACING)[..., ::-1]
        assert np.array_equal(found.classes, once & again)
        for value, one, other in zip(found.disagreement, once, again, strict=True):
            assert value == pytest.approx(1 - (one & other).sum() / (one | other).sum())
            assert value > 0

    @pytest.mark.filterwarnings("ignore:.*nothing as dense as tissue")
    def test_mirrored_without_lung(self, chest):
        empty = volume(np.full_like(chest.array, -1000))
        found = predict_volume(Predictor.load("threshold", tta=True), empty)
        assert found.disagreement.tolist() == [0.0] * 9


def test_whatever_segments_volumes_sees_them_whole(chest):
    segmenter = BySign()

    def whole(hu, *, spacing_mm):
        assert (hu is chest.array, spacing_mm) == (True, SPACING)
        return (hu < -500).astype(np.uint8)

    segmenter.segment_volume = whole
    found = predict_volume(Predictor(segmenter), chest)
    assert np.array_equal(found.classes, chest.array < -500)
    assert segmenter.batches == []


class TestRefusals:
    def test_a_model_for_eight_bits(self, chest):
        predictor = Predictor(BySign(dtypes=("uint8",)))
        with pytest.raises(DataError) as caught:
            predict_volume(predictor, chest)
        assert str(caught.value) == "scans/p1.nii: a slice of int16, the model expects uint8."

    def test_a_mask_or_an_offset(self, chest):
        for predictor in (Predictor(BySign()), Predictor.load("threshold")):
            with pytest.raises(DataError, match="0, 1 and nothing else: a mask"):
                predict_volume(predictor, volume((chest.array < -300).astype(np.int16)))

    def test_batch_size(self, chest):
        with pytest.raises(ConfigError, match="batch_size=0: must be at least 1"):
            predict_volume(Predictor(BySign()), chest, batch_size=0)

    def test_uncertainty_of_what_has_no_probabilities(self, chest):
        class Rule(BySign):
            def __call__(self, prepared):
                return [Segmented((image < self.limit_hu).astype(np.uint8)) for image in prepared]

        rule = Rule()
        with pytest.raises(ConfigError, match="uncertainty: the model has no probabilities"):
            predict_volume(Predictor(rule), chest, uncertainty=True)
        rule.segment_volume = lambda hu, *, spacing_mm: (hu < -300).astype(np.uint8)
        with pytest.raises(ConfigError, match="uncertainty: what segments whole scans has no"):
            predict_volume(Predictor(rule), chest, uncertainty=True)
