"""What a review is opened on, in which order, and where masks are written."""

import json
from pathlib import Path

import numpy as np
import pytest
from slices import SHAPE, body, lungs, write_case

import lungunet
from lungunet.data.codec import LabelCodec
from lungunet.errors import ConfigError, DataError, LungUNetWarning
from lungunet.reviewing.cases import recode
from lungunet.reviewing.desk import Desk
from lungunet.reviewing.sources import Material, slices_to_review


def names(material: Material) -> list[str]:
    return [entry.case.name for entry in material.entries]


def save(desk: Desk, classes: np.ndarray, index: int = 0) -> str:
    base = desk.plane(index, 0).version
    return desk.save(index, 0, classes, base=base, did="brush", who="anna")


@pytest.fixture
def data(pairs: list[lungunet.Pair], tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    lungunet.write_manifest(folder / "train.txt", pairs[:2])
    lungunet.write_manifest(folder / "val.txt", pairs[2:])
    return folder


class TestOrder:
    def test_lists_are_ranked_as_an_audit_ranks_them(self, data: Path, tmp_path: Path) -> None:
        material = slices_to_review(data, tmp_path / "out")
        audited = lungunet.audit(data)
        assert names(material) == [suspect.pair.name for suspect in audited.ranking]
        assert [entry.score for entry in material.entries] == [s.score for s in audited.ranking]
        assert material.entries[0].reasons == audited.ranking[0].reasons
        assert {entry.case.name: entry.group for entry in material.entries} == {
            **{"lost": "train", "right": "train", "void": "val"}
        }

    def test_an_audit_that_is_there_is_taken(self, data: Path, tmp_path: Path) -> None:
        rows = [{"name": "right", "score": 0.9, "reasons": ["so it was"]}]
        (data / "audit").mkdir()
        (data / "audit" / "audit.json").write_text(json.dumps({"ranking": rows}))
        material = slices_to_review(data, tmp_path / "out")
        assert (names(material)[0], material.entries[0].reasons) == ("right", ("so it was",))
        with pytest.raises(DataError, match="cannot be read"):
            slices_to_review(data, tmp_path / "out", ranking=tmp_path)

    def test_predictions_come_with_their_lights(self, tmp_path: Path) -> None:
        for seed in range(2):
            lungunet.write_image(tmp_path / "images" / f"s{seed}.tif", body(seed))
        predictor = lungunet.Predictor.load("threshold")
        masks = tmp_path / "masks"
        write = lungunet.SliceFiles(overlay=True)
        list(lungunet.predict_slices(predictor, tmp_path / "images", masks, write=write))
        text = (masks / "triage.csv").read_text().splitlines()
        (masks / "triage.csv").write_text(f"{text[0]}\ns1,red,0.9,far off; and more\n")
        material = slices_to_review(masks, None, images=tmp_path / "images")
        assert names(material) == ["s1", "s0"]
        first = material.entries[0]
        assert (first.group, first.score, first.reasons) == ("red", 0.9, ("far off", "and more"))
        assert first.case.mask == masks / "s1.png"
        assert material.log == masks / "review.jsonl"

    def test_masks_of_before_beside_the_slices_are_no_slices(self, tmp_path: Path) -> None:
        for seed, name in enumerate(("a", "b")):
            pair = write_case(tmp_path, name, lungs().astype(np.uint8) * 255, seed)
            mask = pair.require_mask()
            lungunet.write_mask(pair.image.with_name(f"{name}_lung.png"), lungunet.read_mask(mask))
            mask.rename(mask.with_name(f"{name}_lung.png"))
        with pytest.warns(LungUNetWarning, match="2 of the 4 images are masks|masks pair"):
            material = slices_to_review(tmp_path / "masks", None, images=tmp_path / "images")
        assert sorted(entry.case.image.name for entry in material.entries) == ["a.tif", "b.tif"]


class TestCopies:
    def test_all_masks_are_copied_and_pair_again(self, data: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        material = slices_to_review(data, out)
        desk = Desk(material.entries, material.log, material.codec)
        save(desk, lungs().astype(np.uint8))
        again = lungunet.find_pairs(tmp_path / "images", out)
        assert [pair.name for pair in again] == ["lost", "right", "void"]
        for entry in material.entries[1:]:
            assert entry.case.mask.read_bytes() == entry.case.source.read_bytes()

    def test_a_review_goes_on_where_it_was_broken_off(self, data: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        for _ in range(2):
            material = slices_to_review(data, out)
            desk = Desk(material.entries, material.log, material.codec)
            assert np.array_equal(desk.entries[0].case.first(0), desk_source(desk))
            save(desk, np.ones(SHAPE, np.uint8))
        assert desk.log.cases[names(material)[0]].changes == 1  # the second changed nothing
        assert (lungunet.read_mask(material.entries[0].case.mask) == 255).all()

    def test_masks_of_something_else_are_not_written_over(self, data: Path, tmp_path: Path) -> None:
        other = np.full(SHAPE, 255, np.uint8)
        lungunet.write_mask(tmp_path / "out" / "right.png", other)
        with pytest.raises(ConfigError, match="there already"):
            slices_to_review(data, tmp_path / "out")
        assert np.array_equal(lungunet.read_mask(tmp_path / "out" / "right.png"), other)

    def test_out_is_not_the_folder_of_the_masks(self, data: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="holds the masks that are read"):
            slices_to_review(data, tmp_path / "masks")

    def test_in_place_the_masks_themselves_are_mended(self, data: Path, tmp_path: Path) -> None:
        material = slices_to_review(data, None)
        desk = Desk(material.entries, material.log, material.codec)
        first = desk.entries[0].case.mask.read_bytes()
        save(desk, np.ones(SHAPE, np.uint8))
        mask = tmp_path / "masks" / f"{names(material)[0]}.png"
        assert (lungunet.read_mask(mask) == 255).all()
        kept = mask.parent / ".review" / f"{mask.stem}.orig.png"
        assert kept.read_bytes() == first
        assert material.log == data / "review.jsonl"
        lungunet.find_pairs(tmp_path / "images", tmp_path / "masks")  # still pair

    def test_in_place_links_are_refused(self, data: Path, tmp_path: Path) -> None:
        (tmp_path / "away").mkdir()
        for mask in sorted((tmp_path / "masks").iterdir()):
            mask.rename(tmp_path / "away" / mask.name)
            mask.symlink_to(tmp_path / "away" / mask.name)
        with pytest.raises(ConfigError, match=r"masks.*away.*: links\. Name the folder"):
            slices_to_review(data, None)
        assert slices_to_review(data, tmp_path / "mended").entries

    def test_a_jpeg_keeps_no_labels(self, tmp_path: Path) -> None:
        import cv2

        lungunet.write_image(tmp_path / "images" / "a.tif", body())
        smeared = tmp_path / "masks" / "a.jpg"
        smeared.parent.mkdir()
        cv2.imwrite(str(smeared), lungs().astype(np.uint8) * 255)
        pairs = [lungunet.Pair(tmp_path / "images" / "a.tif", smeared)]
        codec = lungunet.LabelCodec.parse("0,255", threshold=128)
        with pytest.raises(ConfigError, match="JPEG does not keep labels"):
            slices_to_review(pairs, None, codec=codec)
        material = slices_to_review(pairs, tmp_path / "out", codec=codec)
        desk = Desk(material.entries, material.log, codec)
        save(desk, np.zeros(SHAPE, np.uint8))
        assert not lungunet.read_mask(tmp_path / "out" / "a.png").max() >= 128

    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32"])
    def test_a_tiff_stays_a_tiff_of_its_dtype(self, tmp_path: Path, dtype: str) -> None:
        import tifffile

        pair = lungunet.Pair(tmp_path / "a.tif", tmp_path / "m" / "a.tif")
        lungunet.write_image(pair.image, body())
        lungunet.write_image(pair.require_mask(), lungs().astype(dtype))
        codec = lungunet.LabelCodec.parse("0,1")
        material = slices_to_review([pair], tmp_path / "out", codec=codec)
        desk = Desk(material.entries, material.log, codec)
        wanted = np.roll(lungs(), 3, axis=0)
        save(desk, wanted.astype(np.uint8))
        read = tifffile.imread(tmp_path / "out" / "a.tif")
        assert read.dtype == dtype
        assert np.array_equal(read, wanted)

    def test_new_lung_gets_the_lowest_of_several_values_where_none_was_declared(
        self, tmp_path: Path
    ) -> None:
        raw = np.zeros(SHAPE, np.uint8)
        raw[:4], raw[4:8] = 4, 3
        pair = write_case(tmp_path, "a", raw)
        codec = lungunet.LabelCodec.parse("0,4=1,3=1")
        material = slices_to_review([pair], tmp_path / "out", codec=codec)
        classes = (raw > 0).astype(np.uint8)
        classes[8:12] = 1
        save(Desk(material.entries, material.log, codec), classes)
        raw[8:12] = 3
        assert np.array_equal(lungunet.read_mask(tmp_path / "out" / "a.png"), raw)


class TestRefused:
    def test_masks_without_their_slices(self, tmp_path: Path) -> None:
        lungunet.write_mask(tmp_path / "masks" / "a.png", np.zeros(SHAPE, np.uint8))
        with pytest.raises(DataError, match=r"holds no train.txt.*images="):
            slices_to_review(tmp_path / "masks", None)

    def test_a_mask_that_no_slice_belongs_to(self, tmp_path: Path) -> None:
        lungunet.write_image(tmp_path / "images" / "a.tif", body())
        for name in "ab":
            lungunet.write_mask(tmp_path / "masks" / f"{name}.png", np.zeros(SHAPE, np.uint8))
        with pytest.raises(DataError, match="do not pair up"):
            slices_to_review(tmp_path / "masks", None, images=tmp_path / "images")

    def test_no_pairs_and_stems_that_occur_twice(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no pairs"):
            slices_to_review([], None)
        pair = write_case(tmp_path, "a", np.zeros(SHAPE, np.uint8))
        with pytest.raises(DataError, match=r"occur twice:\n  a \("):
            slices_to_review([pair, pair], None)


def desk_source(desk: Desk) -> np.ndarray:
    source = desk.entries[0].case.source  # type: ignore[attr-defined]
    return lungunet.LUNG_CODEC.encode(lungunet.read_mask(source))


def test_ignored_pixels_stay_what_they_are() -> None:
    codec = LabelCodec.parse("0,1,255=ignore")
    raw = np.array([[0, 1, 255], [0, 1, 255]], np.uint8)
    classes, changed = codec.encode(raw), np.zeros(raw.shape, bool)
    classes[0] = [1, 0, 0]
    changed[0] = True
    changed[1, 2] = True  # painted, and taken back
    assert recode(raw, classes, changed, codec, where="m").tolist() == [[1, 0, 0], [0, 1, 255]]
