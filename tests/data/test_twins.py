"""The guard against leaks: neighbours of one patient are alike, patients are not."""

from pathlib import Path

import cv2
import numpy as np
import pytest

import lungunet
from lungunet.data import twins
from lungunet.data.twins import (
    COPY,
    TWIN,
    Twins,
    find_twins,
    fingerprint,
    fingerprint_pairs,
    guard_groups,
)
from lungunet.phantom.phantom import phantom_slice

MM = 1 / 340  # of a phantom's height


@pytest.fixture(scope="module")
def middle() -> list[np.ndarray]:
    """One slice of each of eight patients, at one height."""
    return [phantom_slice(n, 0.45, size=128).image for n in range(8)]


def alike(first: np.ndarray, second: np.ndarray) -> float:
    return float(fingerprint(first) @ fingerprint(second))


class TestFingerprint:
    def test_has_mean_0_and_length_1(self, middle) -> None:
        found = fingerprint(middle[0][:, :100])
        assert found.dtype == np.float32
        assert found.shape == (4096,)
        assert abs(float(found.mean())) < 1e-6
        assert np.linalg.norm(found) == pytest.approx(1, abs=1e-5)

    @pytest.mark.parametrize("mm", [1, 2, 4])
    def test_neighbours_of_one_patient_are_twins(self, middle, mm: int) -> None:
        for number, image in enumerate(middle):
            moved = phantom_slice(number, 0.45 + mm * MM, size=128).image
            assert alike(image, moved) >= TWIN

    def test_patients_at_one_height_are_not(self, middle) -> None:
        table = np.stack([fingerprint(image) for image in middle])
        table = table @ table.T
        assert table[np.triu_indices(len(middle), 1)].max() < TWIN

    def test_sees_through_what_export_does(self, middle) -> None:
        image = middle[3]
        grey = lungunet.LUNG_WINDOW.to_grey(image)
        jpeg = cv2.imdecode(cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], -1)
        smaller = cv2.resize(image, (96, 96), interpolation=cv2.INTER_AREA)
        stored = (image.astype(np.int32) + 1024).clip(0).astype(np.uint16)
        for other in (grey, jpeg, smaller, stored, image.view(np.uint16), image.astype(np.float32)):
            assert alike(image, other) >= TWIN, other.dtype
        assert alike(image, grey) >= COPY

    def test_misses_a_mirrored_slice_as_documented(self, middle) -> None:
        assert alike(middle[0], middle[0][:, ::-1]) < TWIN

    def test_a_flat_slice_resembles_nothing(self) -> None:
        flat = fingerprint(np.full((40, 50), -1000, np.int16))
        assert not flat.any()
        assert find_twins([flat, flat]) == []


class TestFindTwins:
    def test_agrees_with_a_double_loop_across_blocks(self, monkeypatch) -> None:
        rng = np.random.default_rng(0)
        prints = [row / np.linalg.norm(row) for row in rng.normal(size=(23, 4)).astype(np.float32)]
        expected = [
            (i, j)
            for i in range(23)
            for j in range(i + 1, 23)
            if float(prints[i] @ prints[j]) >= 0.6
        ]
        monkeypatch.setattr(twins, "_BLOCK", 5)
        found = find_twins(prints, at_least=0.6)
        assert sorted((t.first, t.second) for t in found) == expected
        assert all(
            t.similarity == pytest.approx(float(prints[t.first] @ prints[t.second])) for t in found
        )

    def test_nothing_in_nothing_out(self) -> None:
        assert find_twins([]) == []


class TestFingerprintPairs:
    def test_keeps_the_order(self, phantoms) -> None:
        pairs = lungunet.find_pairs(*phantoms)
        found = fingerprint_pairs(pairs)
        for pair, print_ in zip(pairs, found, strict=True):
            assert np.array_equal(print_, fingerprint(lungunet.read_image(pair.image)))

    def test_an_unreadable_image_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "a.tif").write_bytes(b"no image")
        with pytest.raises(lungunet.DataError, match=r"a\.tif"):
            fingerprint_pairs([lungunet.Pair(tmp_path / "a.tif")])


class TestGuardGroups:
    pairs = tuple(lungunet.Pair(Path(f"{name}.tif")) for name in "abcdef")

    def test_joins_chains_of_twins(self) -> None:
        found = guard_groups(self.pairs, [Twins(0, 3, 0.9), Twins(3, 5, 0.9)])
        assert found == {"a": "a", "d": "a", "f": "a", "b": "b", "c": "c", "e": "e"}

    def test_joins_patients_that_share_a_twin(self) -> None:
        patients = dict(zip("abcdef", ["x", "x", "y", "y", "z", "z"], strict=True))
        found = guard_groups(self.pairs, [Twins(1, 2, 0.9)], groups=patients)
        assert found == {"a": "a", "b": "a", "c": "a", "d": "a", "e": "e", "f": "e"}

    def test_the_order_of_twins_does_not_matter(self) -> None:
        chain = [Twins(4, 5, 0.9), Twins(1, 4, 0.9), Twins(0, 5, 0.9)]
        assert guard_groups(self.pairs, chain) == guard_groups(self.pairs, chain[::-1])
