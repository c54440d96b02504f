"""Pixels that are not square: what a network is shown of them, and what comes back."""

from pathlib import Path

import numpy as np
import pytest

from lungunet.data.codec import LabelCodec
from lungunet.data.contract import InputContract
from lungunet.inference import quality
from lungunet.inference.predictor import Predictor
from lungunet.inference.scans import predict_volume
from lungunet.inference.segmenter import Segmented
from lungunet.inference.square import resize_plane, resize_segmented, square_shape
from lungunet.phantom.phantom import phantom_slice
from lungunet.volumes.grid import Grid
from lungunet.volumes.volume import Volume

THINNED = 4
WHOLE = [phantom_slice(3, z, size=128) for z in (0.3, 0.45, 0.6)]
HU = np.stack([plane.image for plane in WHOLE]).astype(np.int16)
LUNGS = np.stack([plane.mask > 0 for plane in WHOLE])


def thinned(axis=1):
    """The scan with each fourth of its rows, or columns, and its truth."""
    kept = [slice(None)] * 3
    kept[axis] = slice(None, None, THINNED)
    spacing = [10.0, 2.8, 2.8]
    spacing[axis] *= THINNED
    hu = HU[tuple(kept)]
    volume = Volume(hu, Path("p.nii"), "p", Grid.axial(hu.shape, tuple(spacing)))
    return volume, LUNGS[tuple(kept)]


class Dark:
    """A network that calls lung what is dark, and keeps the shapes of what it is shown."""

    contract, word, segment_volume = InputContract(64), "", None
    codec = LabelCodec({0: 0, 1: 1})

    def __init__(self):
        self.shapes = []

    def prepare(self, image, where="slice"):
        return image

    def __call__(self, prepared):
        self.shapes += [image.shape for image in prepared]
        lungs = [(image < -300).astype(np.float32) for image in prepared]
        return [Segmented.likeliest(np.stack([1 - lung, lung])) for lung in lungs]


@pytest.mark.parametrize(
    ("shape", "spacing_mm", "expected"),
    [
        ((48, 64), (0.8, 0.7), (48, 64)),
        ((48, 64), None, (48, 64)),
        ((48, 64), (3.0, 1.0), (144, 64)),
        ((48, 64), (1.0, 1.5), (48, 96)),
        ((600, 512), (6.0, 1.0), (2048, 291)),
        ((3000, 100), (2.0, 1.0), (3000, 50)),
    ],
)
def test_pixels_are_as_fine_as_they_are_one_way(shape, spacing_mm, expected):
    assert square_shape(shape, spacing_mm) == expected


@pytest.mark.parametrize("dtype", ["int16", "int32", "float32", "uint8"])
def test_planes_keep_their_dtype_and_levels(dtype):
    plane = np.repeat(np.array([[10, 50, 90]], dtype), 5, axis=0)
    resized = resize_plane(plane, (20, 3))
    assert resized.dtype == plane.dtype
    assert np.array_equal(resized, np.repeat(plane, 4, axis=0))
    assert np.array_equal(resize_plane(resized, (5, 3)), plane)


def test_all_that_is_said_of_a_plane_comes_back():
    lung = np.linspace(0, 0.9, 12, dtype=np.float32).reshape(12, 1).repeat(5, axis=1)
    said = Segmented.likeliest(np.stack([1 - lung, lung]), disagreement=0.25, spread=lung)
    back = resize_segmented(said, (3, 5))
    means = lung.reshape(3, 4, 5).mean(axis=1)
    assert np.allclose(back.probabilities, [1 - means, means])
    assert np.allclose(back.spread, means)
    assert np.array_equal(back.classes, means > 0.5)
    assert back.disagreement == 0.25
    rule = resize_segmented(Segmented(said.classes), (3, 5))
    assert (rule.classes.shape, rule.probabilities) == ((3, 5), None)


class TestScans:
    @pytest.mark.parametrize("axis", [1, 2])
    @pytest.mark.parametrize("tta", [False, True])
    def test_a_network_sees_square_pixels(self, axis, tta):
        scan, _ = thinned(axis)
        segmenter = Dark()
        found = predict_volume(
            Predictor(segmenter, tta=tta), scan, refine=False, uncertainty=True, probabilities=True
        )
        assert set(segmenter.shapes) == {(128, 128)}
        assert found.classes.shape == found.uncertainty.shape == scan.array.shape
        assert found.probabilities.shape == (1, *scan.array.shape)
        dark = scan.array < -300
        assert np.mean(found.classes == dark) > 0.97

    def test_nearly_square_ones_stay(self):
        scan = Volume(HU, Path("p.nii"), "p", Grid.axial(HU.shape, (6.0, 5.0, 4.0)))
        segmenter = Dark()
        found = predict_volume(Predictor(segmenter), scan, refine=False)
        assert np.array_equal(found.classes, HU < -300)

    def test_a_second_opinion_sees_square_pixels_too(self):
        scan, _ = thinned()
        segmenter = Dark()
        lungs = quality._see(Predictor(segmenter), scan.array, scan.spacing_mm)
        assert set(segmenter.shapes) == {(128, 128)}
        assert lungs.shape == scan.array.shape

    def test_the_built_in_model_finds_the_lungs(self):
        scan, truth = thinned()
        found = predict_volume(Predictor.load("lungs", device="cpu", tta=False), scan).classes > 0
        assert (found & truth).sum() > 0.93 * (found | truth).sum()
