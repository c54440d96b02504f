"""Random and mutated input for every reader: it is read, or refused as a LungUNetError.

A longer run: ``FUZZ=10000 python -m pytest tests/robustness/test_fuzz.py``.
"""

import contextlib
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

import lungunet
from lungunet import LabelCodec, LungUNetError, Pair, RunConfig, build_unet, load_model, save_model
from lungunet.data.contract import InputContract
from lungunet.data.ct import read_header
from lungunet.data.manifest import list_named
from lungunet.data.split import SplitRecord, choose_codec, read_split_record
from lungunet.data.window import parse_window
from lungunet.training.checkpoint import load_checkpoint, save_checkpoint

fuzz = settings(
    max_examples=int(os.environ.get("FUZZ", "40")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
refused = contextlib.suppress(LungUNetError)

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from(["int16", "resnet18", "0", "255", 2, 32]),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=12,
)
"""What JSON and TOML can hold."""


@st.composite
def spoilt(draw, content: bytes):
    """Bytes of a file with a few changed, cut out, put in or left off."""
    spoilt = bytearray(content)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, len(spoilt) - 1)))
        how = draw(st.sampled_from(["set", "cut", "insert", "end"]))
        if how == "set" and spoilt:
            spoilt[at] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
        elif how == "cut":
            del spoilt[at : at + draw(st.integers(1, 40))]
        elif how == "insert":
            spoilt[at:at] = draw(st.binary(min_size=1, max_size=20))
        elif draw(st.booleans()):
            del spoilt[at:]
    return bytes(spoilt)


def encoded(kind: str) -> bytes:
    """A small picture with noise, lopsided, as Pillow writes it."""
    rng = np.random.default_rng(3)
    wide = rng.integers(-2000, 2000, (9, 14)).astype(np.int32)
    grey = Image.fromarray(rng.integers(0, 255, (9, 14), np.uint8))
    pictures = {
        "tiff": (Image.fromarray(wide), {"format": "TIFF"}),
        "packed tiff": (Image.fromarray(wide), {"format": "TIFF", "compression": "tiff_lzw"}),
        "png": (grey, {"format": "PNG"}),
        "palette png": (grey.convert("P"), {"format": "PNG"}),
        "jpeg": (grey, {"format": "JPEG"}),
        "bmp": (grey, {"format": "BMP"}),
    }
    picture, options = pictures[kind]
    buffer = io.BytesIO()
    picture.save(buffer, **options)
    return buffer.getvalue()


class TestImages:
    @fuzz
    @given(content=st.binary(max_size=300))
    def test_random_bytes(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.tif").write_bytes(content)
        self.read(tmp_path / "a.tif")

    @pytest.mark.parametrize("kind", ["tiff", "packed tiff", "png", "palette png", "jpeg", "bmp"])
    @fuzz
    @given(data=st.data())
    def test_mutated(self, tmp_path: Path, kind: str, data: st.DataObject) -> None:
        (tmp_path / "a.tif").write_bytes(data.draw(spoilt(encoded(kind))))
        self.read(tmp_path / "a.tif")

    def read(self, path: Path) -> None:
        header = image = None
        with refused:
            header = read_header(path)
        with refused:
            image = lungunet.read_image(path)
        with refused:
            lungunet.read_mask(path)
        if image is not None:
            assert image.ndim == 2
            assert np.isfinite(image).all()
            assert header is not None  # what can be read has a header


LINES = b"images/a.tif\tmasks/a.png\r\n\nimages\\b c.tif\tmasks/b c.png\n"


class TestLists:
    @fuzz
    @given(content=st.binary(max_size=200) | spoilt(LINES) | st.text(max_size=99).map(str.encode))
    @example(content=b"\xef\xbb\xbf")
    @example(content=b"a\0b\tc\n")
    @example(content=b"/\t/\n")
    @example(content=b"~\t..\n")
    def test_manifest(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.txt").write_bytes(content)
        with refused:
            assert all(pair.mask for pair in lungunet.read_manifest(tmp_path / "a.txt"))
        with refused:
            list_named(tmp_path / "a.txt")
        with refused:
            lungunet.LungCTDataset(tmp_path / "a.txt")

    @fuzz
    @given(
        content=st.binary(max_size=200)
        | spoilt(b'name,patient\na,1\n"b",2\n')
        | st.text(max_size=99).map(lambda text: b"name,patient\n" + text.encode())
    )
    def test_groups(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "g.csv").write_bytes(content)
        pairs = [Pair("a.tif", "a.png"), Pair("b.tif", "b.png")]
        with refused:
            assert set(lungunet.read_groups(pairs, str(tmp_path / "g.csv"))) == {"a", "b"}

    @pytest.mark.filterwarnings("ignore:Possible:FutureWarning")  # of re, about [[
    @fuzz
    @example(rule="a{99999999999}")
    @given(rule=st.text(max_size=12) | st.text("()[]{}*+?|\\^$a1-", max_size=9))
    def test_group_rules(self, rule: str) -> None:
        with refused:
            lungunet.read_groups([Pair("a.tif", "a.png")], rule)

    @fuzz
    @given(data=st.data())
    def test_split_json(self, tmp_path: Path, data: st.DataObject) -> None:
        whole = {"labels": lungunet.LUNG_CODEC.to_dict(), "patients": {"a": 1}}
        content = data.draw(
            spoilt(json.dumps(whole).encode())
            | changed(whole).map(lambda facts: json.dumps(facts).encode())
            | st.binary(max_size=60)
        )
        (tmp_path / "split.json").write_bytes(content)
        with refused:
            assert isinstance(read_split_record(tmp_path), SplitRecord)
        with refused:
            assert choose_codec(tmp_path).n_classes >= 2


@st.composite
def changed(draw, whole):
    """A nested dict in which one value, wherever it stands, is another one or gone."""
    if not isinstance(whole, dict) or not whole or draw(st.integers(0, 3)) == 0:
        return draw(plain)
    key = draw(st.sampled_from(sorted(whole)))
    if draw(st.integers(0, 9)) == 0:
        return {name: value for name, value in whole.items() if name != key}
    return {**whole, key: draw(changed(whole[key]))}


class TestCodec:
    @fuzz
    @given(text=st.text(max_size=20) | st.text("0123456789,=:- ", max_size=16))
    @example(text="0,1:0,1:0")
    @example(text="\u0663,1")  # an Arabic digit is a number to int()
    @example(text="9" * 5000)  # more digits than Python turns into a number
    def test_parse(self, text: str) -> None:
        with refused:
            codec = LabelCodec.parse(text)
            assert LabelCodec.parse(str(codec)) == codec
        with refused:
            parse_window(text)

    @fuzz
    @given(stored=changed(LabelCodec.parse("0,3=1,4=1,5=2:0,3,5").to_dict()))
    def test_stored(self, stored: object) -> None:
        with refused:
            codec = LabelCodec.from_dict(stored)  # type: ignore[arg-type]
            assert LabelCodec.from_dict(codec.to_dict()) == codec

    @fuzz
    @given(stored=changed(InputContract(64).to_dict()), value=st.integers(-3000, 3000))
    def test_contract(self, stored: object, value: int) -> None:
        with refused:
            contract = InputContract.from_dict(stored)  # type: ignore[arg-type]
            if contract.size < 512:
                image = np.full((5, 7), value, np.int16)
                assert np.isfinite(contract.normalise(contract.fit(contract.to_grey(image)))).all()


SETTINGS = RunConfig(data="data").to_toml().encode()


class TestSettings:
    @fuzz
    @given(
        content=st.binary(max_size=200) | spoilt(SETTINGS) | st.text(max_size=99).map(str.encode)
    )
    def test_toml(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "c.toml").write_bytes(content)
        with refused:
            RunConfig.from_toml(tmp_path / "c.toml")

    @fuzz
    @given(values=st.dictionaries(st.sampled_from(sorted(RunConfig.__dataclass_fields__)), plain))
    def test_values(self, values: dict[str, object]) -> None:
        with refused:
            config = RunConfig.from_dict({"data": "d", **values})
            assert config.lr > 0


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model folder with a checkpoint beside it."""
    folder = tmp_path_factory.mktemp("fuzz")
    model = build_unet("unet2015", width=2, seed=0)
    save_model(folder, model, contract=InputContract(64), codec=lungunet.LUNG_CODEC)
    parts = {key: {"a": torch.zeros(3)} for key in ("model", "optimizer", "scaler", "position")}
    lists = {"history": [1.0, None, "x"], "rng": [torch.zeros(9)], "threads": 1}
    facts = {key: {"a": ["b"]} for key in ("contract", "codec", "data", "settings")}
    save_checkpoint(folder / "last.ckpt", {**parts, **lists, **facts})
    load_checkpoint(folder / "last.ckpt")
    return folder


class TestModels:
    @fuzz
    @given(data=st.data())
    def test_about(self, saved: Path, data: st.DataObject) -> None:
        content = (saved / "lungunet.json").read_bytes()
        whole = json.loads(content)
        parts = {key: st.just(value) | changed(value) for key, value in whole.items()}
        as_json = st.fixed_dictionaries(parts).map(lambda about: json.dumps(about).encode())
        try:
            (saved / "lungunet.json").write_bytes(data.draw(as_json | spoilt(content)))
            with refused:
                load_model(saved)
        finally:
            (saved / "lungunet.json").write_bytes(content)

    @pytest.mark.parametrize("name", ["model.safetensors", "last.ckpt"])
    @fuzz
    @given(data=st.data())
    def test_weights(self, saved: Path, name: str, data: st.DataObject) -> None:
        content = (saved / name).read_bytes()
        # The head and the tail hold what is parsed; between them lie numbers.
        head, middle, tail = content[:3000], content[3000:-3000], content[-3000:]
        spoilt_bytes = data.draw(
            st.binary(max_size=200)
            | spoilt(head).map(lambda new: new + middle + tail)
            | spoilt(tail).map(lambda new: head + middle + new)
        )
        try:
            (saved / name).write_bytes(spoilt_bytes)
            with refused:
                load_checkpoint(saved / name) if name == "last.ckpt" else load_model(saved)
        finally:
            (saved / name).write_bytes(content)

    @fuzz
    @given(content=st.binary(max_size=200))
    def test_weights_of_a_stranger(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "w.pt").write_bytes(content)
        with refused:
            build_unet("unet2015", width=2, weights=tmp_path / "w.pt")
