import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.transform import downscale_local_mean
from strategies import slice_shapes

from lungunet.data.contract import InputContract
from lungunet.data.window import LUNG_WINDOW, Window, parse_window
from lungunet.errors import ConfigError, DataError

LUNG = InputContract(64)
GREY = InputContract(64, None, ("uint8",))
_FILES = "Use the files that the slices were exported from, or"
_EXPORT = "Export them through the window of those that it was trained on, or use"


def disc(shape, radius, centre=None):
    """A filled disc; without a centre, in the middle of the picture."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    row, column = centre or ((shape[0] - 1) / 2, (shape[1] - 1) / 2)
    return ((rows - row) ** 2 + (columns - column) ** 2 <= radius**2).astype(np.uint8)


def centroid(picture):
    """Weighted mean position as a share of the sides: 0.5, 0.5 is the middle at any size."""
    weights = np.asarray(picture, np.float64)
    rows, columns = (np.arange(n) + 0.5 for n in weights.shape)
    total = weights.sum()
    return (
        np.array(
            [weights.sum(1) @ rows / weights.shape[0], weights.sum(0) @ columns / weights.shape[1]]
        )
        / total
    )


def majority_by_double_loop(classes, factor):
    small = np.zeros((classes.shape[0] // factor, classes.shape[1] // factor), int)
    for row in range(small.shape[0]):
        for column in range(small.shape[1]):
            block = classes[
                row * factor : (row + 1) * factor, column * factor : (column + 1) * factor
            ]
            small[row, column] = np.bincount(block.ravel(), minlength=3).argmax()
    return small


def has_tie(classes, factor):
    height, width = (side // factor for side in classes.shape)
    blocks = classes.reshape(height, factor, width, factor).swapaxes(1, 2).reshape(-1, factor**2)
    counts = np.sort([np.bincount(block, minlength=3) for block in blocks], axis=1)
    return counts[:, -1] == counts[:, -2]


class TestWindow:
    def test_by_hand(self):
        hu = np.array([[-2000, -1351, -1350, -975], [-600, -225, 150, 5500]], np.int16)
        shown = LUNG_WINDOW.apply(hu)
        assert shown.dtype == np.float32
        assert shown.tolist() == [[0, 0, 0, 0.25], [0.5, 0.75, 1, 1]]

    @given(
        st.integers(-2000, 2000),
        st.integers(1, 5000),
        hnp.arrays("int16", (4, 7), elements=st.integers(-3000, 6000)),
    )
    def test_is_the_plain_formula(self, level, width, hu):
        low, high = level - width / 2, level + width / 2
        shown = Window(level, width).apply(hu)
        for value, grey in zip(hu.ravel().tolist(), shown.ravel().tolist(), strict=True):
            expected = min(max((value - low) / width, 0), 1)
            assert grey == pytest.approx(expected, abs=1e-6)
            if value <= low or value >= high:
                assert grey == expected

    def test_both_ends_are_exact_at_every_width(self):
        for width in range(1, 3000, 7):
            ends = np.array([-600 - width / 2, -600 + width / 2], np.float32)
            assert Window(-600, width).apply(ends).tolist() == [0, 1]

    @pytest.mark.parametrize("dtype", ["int16", "int32", "float32", "uint16", ">i2"])
    def test_dtypes_and_views(self, dtype):
        hu = np.arange(5 * 48 * 64).reshape(5, 48, 64).astype(dtype)[:, ::-1, ::3]
        before = hu.copy()
        expected = np.clip((hu.astype(np.float64) - 100) / 1000, 0, 1)
        assert np.abs(Window(600, 1000).apply(hu) - expected).max() < 1e-6
        assert np.array_equal(hu, before)

    def test_extremes_of_int16_do_not_wrap(self):
        hu = np.array([[-32768, 32767]], np.int16)
        assert LUNG_WINDOW.apply(hu).tolist() == [[0, 1]]
        assert LUNG_WINDOW.to_grey(hu).tolist() == [[0, 255]]

    def test_grey_rounds_to_the_nearest_step(self):
        # 255 HU wide: one HU is one step.
        hu = np.array([[-1.0, 0, 0.4, 0.6, 100.49, 100.51, 254.6, 300]], np.float32)
        assert Window(127.5, 255).to_grey(hu).tolist() == [[0, 0, 0, 1, 100, 101, 255, 255]]
        assert Window(127.5, 255).to_grey(hu).dtype == np.uint8

    @pytest.mark.parametrize(
        ("level", "width"), [(0, 0), (0, -1), (np.nan, 1), (0, np.inf), (np.inf, 1), (0, np.nan)]
    )
    def test_refusals(self, level, width):
        with pytest.raises(ConfigError, match=r"^window .*: the width must be above 0, and ne"):
            Window(level, width)


class TestForDtypes:
    HU = ("int16", "int32", "float32")

    @pytest.mark.parametrize(
        ("dtypes", "window", "expected"),
        [
            (["uint8", "uint8"], None, (None, ("uint8",))),
            (["int16"], None, (LUNG_WINDOW, HU)),
            (["float32", "int16", "int32"], None, (LUNG_WINDOW, HU)),
            (["int16"], Window(40, 400), (Window(40, 400), HU)),
            (["uint16"], Window(424, 1500), (Window(424, 1500), ("uint16",))),
            (["uint8"], Window(127.5, 255), (Window(127.5, 255), ("uint8",))),
        ],
    )
    def test_decides(self, dtypes, window, expected):
        contract = InputContract.for_dtypes(iter(dtypes), size=96, window=window)
        assert (contract.window, contract.dtypes) == expected
        assert contract.size == 96

    @pytest.mark.parametrize(
        ("dtypes", "named"),
        [
            (["uint16"], "uint16"),
            ([], "unknown"),
        ],
    )
    def test_refuses_to_guess(self, dtypes, named):
        with pytest.raises(ConfigError) as caught:
            InputContract.for_dtypes(dtypes, size=96)
        assert str(caught.value).startswith(f"slices of dtype {named}: the values can mean anythin")
        assert "window='LEVEL,WIDTH'" in str(caught.value)

    @pytest.mark.parametrize("window", [None, LUNG_WINDOW, Window(127.5, 255)])
    def test_grey_among_hu_is_refused_with_any_window(self, window):
        with pytest.raises(
            ConfigError, match=r"^slices of dtype int16 and uint8: 8-bit grey and HU"
        ):
            InputContract.for_dtypes(["uint8", "int16"], size=96, window=window)

    @pytest.mark.parametrize("window", [None, LUNG_WINDOW, Window(424, 1500)])
    @pytest.mark.parametrize("other", HU)
    def test_an_offset_among_hu_is_refused_with_any_window(self, other, window):
        message = rf"^slices of dtype {other} and uint16: values with an offset and HU do not go"
        with pytest.raises(ConfigError, match=message):
            InputContract.for_dtypes(["uint16", other], size=96, window=window)

    def test_a_window_of_hu_on_grey_is_refused(self):
        with pytest.raises(
            ConfigError, match=r"^window -600,1500: begins below 0, and slices of ui"
        ):
            InputContract.for_dtypes(["uint8"], size=96, window=LUNG_WINDOW)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers(value):
    image = np.zeros((8, 8), np.float32)
    image[1, 2] = value
    with pytest.raises(DataError, match=r"^slice: holds NaN or infinite values"):
        LUNG.check(image)


class TestToGrey:
    def test_eight_bits_stay(self):
        grey = np.arange(256, dtype=np.uint8).reshape(8, 32)
        contract = InputContract.for_dtypes(["uint8"], size=64)
        assert np.array_equal(contract.to_grey(grey), grey)

    def test_hu_are_windowed(self):
        hu = np.array([[-1350, -600, 150]], np.int16)
        assert LUNG.to_grey(hu).tolist() == [[0, 128, 255]]

    @pytest.mark.parametrize(
        ("contract", "dtype", "wanted", "fix"),
        [
            (LUNG, "uint8", "int16 or int32 or float32 seen at window -600,1500", _FILES),
            (LUNG, "uint16", "int16 or int32 or float32 seen at window -600,1500", _FILES),
            (GREY, "int16", "uint8 grey values", _EXPORT),
            (GREY, "uint16", "uint8 grey values", _EXPORT),
        ],
    )
    def test_other_dtypes(self, contract, dtype, wanted, fix):
        with pytest.raises(DataError) as caught:
            contract.to_grey(np.zeros((4, 4), dtype), "ID_1.tif")
        assert str(caught.value) == (
            f"ID_1.tif: a slice of {dtype}, the model expects {wanted}. {fix} a model "
            f"trained on {'HU, such as lungs' if dtype == 'int16' else dtype}."
        )
        with pytest.raises(DataError, match=f"^slice: a slice of {dtype}, runs/a expects {wanted}"):
            contract.check_dtype(dtype, model="runs/a")

    @pytest.mark.parametrize("shape", [(5,), (3, 4, 5), (0, 4), (4, 0)])
    def test_what_is_no_slice(self, shape):
        with pytest.raises(DataError, match=r"^slice: shape .*, a slice is \(H, W\)"):
            LUNG.to_grey(np.zeros(shape, np.int16))


class TestLetterbox:
    @pytest.mark.parametrize(
        ("shape", "rows", "columns"),
        [
            ((64, 64), (0, 64), (0, 64)),
            ((48, 64), (8, 56), (0, 64)),
            ((64, 48), (0, 64), (8, 56)),
            ((96, 128), (8, 56), (0, 64)),
            ((24, 32), (8, 56), (0, 64)),
            ((33, 64), (15, 48), (0, 64)),  # the odd row of padding goes below
            ((1, 200), (31, 32), (0, 64)),
            ((200, 1), (0, 64), (31, 32)),
            ((1, 1), (0, 64), (0, 64)),
        ],
    )
    def test_where_the_slice_lies(self, shape, rows, columns):
        expected = np.zeros((64, 64), np.uint8)
        expected[slice(*rows), slice(*columns)] = 1
        assert np.array_equal(LUNG.fit(np.full(shape, 200, np.uint8)), expected * 200)
        assert np.array_equal(LUNG.fit_mask(np.ones(shape, np.uint8)), expected)

    @given(slice_shapes, st.integers(16, 100))
    def test_any_shape_fits(self, shape, size):
        contract = InputContract(size)
        for fit in (contract.fit, contract.fit_mask):
            square = fit(np.ones(shape, np.uint8))
            assert square.shape == (size, size)
            assert square.dtype == np.uint8
            rows, columns = np.flatnonzero(square.any(1)), np.flatnonzero(square.any(0))
            assert max(len(rows), len(columns)) == size
            # Same padding on both sides, give or take one pixel.
            for found in (rows, columns):
                assert 0 <= (size - 1 - found[-1]) - found[0] <= 1
            assert square.sum() == len(rows) * len(columns)

    @pytest.mark.parametrize("view", [np.s_[::-1], np.s_[:, ::-1], np.s_[::2, ::3]])
    def test_views(self, view):
        rng = np.random.default_rng(0)
        grey = rng.integers(0, 255, (96, 120), np.uint8)[view]
        classes = grey // 100
        assert np.array_equal(LUNG.fit(grey), LUNG.fit(grey.copy()))
        assert np.array_equal(LUNG.fit_mask(classes), LUNG.fit_mask(classes.copy()))
        small = classes[:30, :30].astype(">u2")  # of another byte order
        assert np.array_equal(LUNG.fit_mask(small), LUNG.fit_mask(small.astype(np.uint8)))

    def test_the_same_size_is_the_identity(self):
        grey = np.random.default_rng(0).integers(0, 255, (48, 64), np.uint8)
        assert np.array_equal(LUNG.fit(grey)[8:56], grey)
        assert np.array_equal(LUNG.fit_mask(grey)[8:56], grey)

    def test_shrinking_averages(self):
        # By 4: at exactly 2 bilinear sampling would average too.
        grey = np.random.default_rng(0).integers(0, 255, (192, 256), np.uint8)
        assert np.abs(LUNG.fit(grey)[8:56] - downscale_local_mean(grey, (4, 4))).max() <= 0.5


class TestFitMask:
    @pytest.mark.parametrize("factor", [2, 4])
    @pytest.mark.parametrize("n_classes", [2, 3])
    def test_is_the_majority(self, factor, n_classes):
        rng = np.random.default_rng(factor + n_classes)
        # Blobs and noise: many blocks are mixed.
        classes = rng.integers(0, n_classes, (48 * factor, 64 * factor), np.uint8)
        classes[: 30 * factor, : 30 * factor] = 1
        classes[20 * factor + 1 : 40 * factor - 1, 10 * factor + 1 : 50 * factor] = n_classes - 1
        fitted = LUNG.fit_mask(classes)[8:56]
        clear = ~has_tie(classes, factor).reshape(48, 64)
        assert clear.sum() > 1500
        assert np.array_equal(fitted[clear], majority_by_double_loop(classes, factor)[clear])

    def test_half_and_half_is_lung(self):
        classes = np.zeros((128, 128), np.uint8)
        classes[:, ::2] = 1
        assert LUNG.fit_mask(classes).all()
        classes[classes > 0] = 2
        assert (LUNG.fit_mask(classes) == 2).all()

    def test_growing_takes_the_nearest(self):
        classes = np.random.default_rng(0).integers(0, 3, (24, 32), np.uint8)
        assert np.array_equal(LUNG.fit_mask(classes)[8:56], classes.repeat(2, 0).repeat(2, 1))

    @pytest.mark.parametrize("side", [24, 37, 50, 63])
    def test_growing_by_a_fraction_takes_the_pixel_under_the_centre(self, side):
        classes = np.random.default_rng(side).integers(0, 3, (side, side), np.uint8)
        nearest = ((np.arange(64) + 0.5) * side / 64).astype(int)
        assert np.array_equal(LUNG.fit_mask(classes), classes[np.ix_(nearest, nearest)])

    @given(slice_shapes, st.integers(16, 80), st.sampled_from([(0, 1), (0, 2), (0, 1, 2, 5)]))
    def test_invents_no_class(self, shape, size, found):
        rng = np.random.default_rng(shape[0])
        classes = rng.choice(np.array(found, np.uint8), shape)
        assert set(np.unique(InputContract(size).fit_mask(classes))) <= {0, *found}

    def test_a_slice_without_lung(self):
        assert not LUNG.fit_mask(np.zeros((200, 300), np.uint8)).any()


SIZES = [(512, 256), (512, 192), (300, 256), (256, 512), (64, 512), (100, 64)]


class TestNoShift:
    @pytest.mark.parametrize(("side", "size"), SIZES)
    def test_what_is_centred_stays_centred(self, side, size):
        contract = InputContract(size)
        shape = (side * 3 // 4, side)
        classes = disc(shape, side / 5)
        image, mask = contract.fit(classes * 255), contract.fit_mask(classes)
        back = contract.unfit(torch.from_numpy(image[None, None].astype(np.float32)), *shape)[0, 0]
        pixel = 1 / min(side, size)
        for picture in (image, mask, back):
            assert np.abs(centroid(picture) - 0.5).max() < 0.02 * pixel

    @pytest.mark.parametrize(("side", "size"), SIZES)
    def test_mask_and_image_lie_on_each_other(self, side, size):
        contract = InputContract(size)
        classes = disc((side, side), side / 9, centre=(side * 0.31, side * 0.62))
        image, mask = contract.fit(classes * 255), contract.fit_mask(classes)
        back = contract.unfit(torch.from_numpy(image[None, None].astype(np.float32)), side, side)
        expected = centroid(classes)
        for picture in (image, mask, back[0, 0]):
            assert np.abs(centroid(picture) - expected).max() < 0.1 / min(side, size)

    def test_there_and_back_keeps_the_mask(self):
        contract = InputContract(256)
        lungs = disc((512, 512), 90, (260.3, 150.7)) | disc((512, 512), 101, (250.2, 365.1))
        soft = torch.from_numpy(contract.fit(lungs * 255).astype(np.float32) / 255)
        hard = torch.from_numpy(contract.fit_mask(lungs).astype(np.float32))
        for small, least in ((soft, 0.995), (hard, 0.98)):
            back = contract.unfit(small[None, None], 512, 512)[0, 0].numpy() > 0.5
            assert (back & (lungs > 0)).sum() / (back | (lungs > 0)).sum() >= least


class TestUnfit:
    @given(slice_shapes, st.integers(16, 80), st.integers(1, 3), st.integers(1, 3))
    def test_cuts_the_padding_off(self, shape, size, n, classes):
        contract = InputContract(size)
        inside = torch.from_numpy(contract.fit(np.full(shape, 1, np.uint8)).astype(np.float32))
        logits = torch.where(inside > 0, 1.0, torch.nan).repeat(n, classes, 1, 1)
        back = contract.unfit(logits, *shape)
        assert back.shape == (n, classes, *shape)
        assert back.dtype == torch.float32
        assert torch.allclose(back, torch.ones(()))  # one padding pixel would bring in NaN

    def test_the_same_size_is_the_identity(self):
        logits = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        assert torch.equal(LUNG.unfit(logits, 64, 64), logits)
        assert torch.equal(LUNG.unfit(logits, 48, 64), logits[:, :, 8:56])

    def test_half_precision_comes_back_whole(self):
        back = LUNG.unfit(torch.ones(1, 2, 64, 64, dtype=torch.bfloat16), 96, 128)
        assert back.dtype == torch.float32

    def test_shrinking_averages(self):
        # Slices smaller than the contract: sampled between the middle two columns of each four,
        # these stripes would alias to 1 everywhere.
        stripes = torch.tensor([0.0, 1, 1, 0]).repeat(16).expand(1, 1, 64, 64)
        back = LUNG.unfit(stripes, 16, 16)[..., 2:-2]
        assert (back - 0.5).abs().max() < 0.1


def test_what_is_no_array():
    with pytest.raises(DataError, match=r"^slice: a str, no array\. Pass what read_image"):
        LUNG.check("slice.tif")


def assert_same_bits(contract: InputContract, device: torch.device) -> None:
    grey = np.arange(512, dtype=np.uint8).reshape(2, 16, 16)
    tensors = contract.normalise_batch(torch.from_numpy(grey).to(device))
    expected = np.stack([contract.normalise(one) for one in grey])
    assert tensors.dtype == torch.float32
    assert np.array_equal(tensors.cpu().numpy(), expected)


class TestNormalise:
    def test_by_hand(self):
        contract = InputContract(64, mean=0.5, std=0.25)
        tensor = contract.normalise(np.array([[0, 51], [255, 102]], np.uint8))
        assert tensor.shape == (1, 2, 2)
        assert tensor.dtype == np.float32
        np.testing.assert_allclose(tensor[0], [[-2, -1.2], [2, -0.4]], rtol=1e-6)

    def test_default_is_imagenet_seen_in_grey(self):
        tensor = LUNG.normalise(np.array([[255]], np.uint8))
        np.testing.assert_allclose(tensor, (1 - 0.449) / 0.226, rtol=1e-6)

    @pytest.mark.parametrize(("mean", "std"), [(0.449, 0.226), (0.5, 0.3), (0.0, 1.0)])
    def test_a_batch_is_normalised_to_the_same_bits(self, mean, std):
        assert_same_bits(InputContract(16, mean=mean, std=std), torch.device("cpu"))

    @pytest.mark.gpu
    @pytest.mark.parametrize(("mean", "std"), [(0.449, 0.226), (0.5, 0.3), (0.0, 1.0)])
    def test_a_batch_is_normalised_to_the_same_bits_on_a_gpu(self, device, mean, std):
        assert_same_bits(InputContract(16, mean=mean, std=std), device)

    @pytest.mark.parametrize(
        ("dtype", "shape"), [(torch.float32, (2, 16, 16)), (torch.uint8, (2, 1, 16, 16))]
    )
    def test_a_batch_that_is_normalised_already_is_refused(self, dtype, shape):
        batch = torch.ones(shape, dtype=dtype)
        with pytest.raises(DataError, match="Make the loader with eight_bit=True"):
            InputContract(16).normalise_batch(batch)
        assert (batch == 1).all()

    def test_prepare_is_the_three_steps(self):
        hu = np.random.default_rng(0).integers(-2000, 500, (100, 75)).astype(np.int16)
        tensor = LUNG.prepare(hu)
        assert tensor.shape == (1, 64, 64)
        assert np.array_equal(tensor, LUNG.normalise(LUNG.fit(LUNG.to_grey(hu))))
        with pytest.raises(DataError, match="ID_4: a slice of uint8"):
            LUNG.prepare(hu.astype(np.uint8), "ID_4")


class TestStored:
    @pytest.mark.parametrize(
        "contract",
        [
            LUNG,
            InputContract(512, None, ("uint8",), 0.1, 0.2),
            InputContract(96, Window(40.5, 400), ("int16", "uint16")),
        ],
    )
    def test_round_trips(self, contract):
        stored = contract.to_dict()
        assert InputContract.from_dict(stored) == contract
        assert pickle.loads(pickle.dumps(contract)) == contract
        assert all(isinstance(value, int | float | dict | list | None) for value in stored.values())

    @pytest.mark.parametrize("key", ["size", "window", "dtypes", "mean", "std"])
    def test_a_part_is_missing(self, key):
        stored = LUNG.to_dict()
        del stored[key]
        with pytest.raises(ConfigError, match=r"input contract: stored as .*, which is incomplete"):
            InputContract.from_dict(stored)

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("size", "large"),
            ("size", None),
            ("window", {"level": -600}),
            ("window", {"level": "low", "width": 2}),
            ("window", {}),
            ("window", [1, 2]),
            ("dtypes", 3),
            ("dtypes", "int16"),
            ("size", float("inf")),
            ("std", "x"),
        ],
    )
    def test_a_part_of_the_wrong_kind(self, key, value):
        with pytest.raises(ConfigError, match=r"input contract: stored as .*, which is incomplete"):
            InputContract.from_dict({**LUNG.to_dict(), key: value})

    def test_a_value_out_of_range_says_which(self):
        with pytest.raises(ConfigError, match=r"^size 8: must be 16 to 16384 px\. 256 is usual"):
            InputContract.from_dict({**LUNG.to_dict(), "size": 8})
        with pytest.raises(ConfigError, match=r"^window 0,-1: the width must be above 0"):
            InputContract.from_dict({**LUNG.to_dict(), "window": {"level": 0, "width": -1}})

    @pytest.mark.parametrize("std", [0, -1.0, np.nan, np.inf])
    def test_std(self, std):
        with pytest.raises(ConfigError, match=r"^mean 0\.449, std .*, and std must be above 0"):
            InputContract(64, std=std)

    @pytest.mark.parametrize("mean", [np.nan, np.inf, -0.01, 1.01])
    def test_mean(self, mean):
        with pytest.raises(ConfigError, match=r"^mean .*: the mean of grey values is in \[0, 1\]"):
            InputContract(64, mean=mean)

    def test_a_size_that_no_memory_holds(self):
        with pytest.raises(ConfigError, match=r"^size 16385: must be 16 to 16384 px"):
            InputContract(16385)
        assert InputContract(16384).size == 16384

    @pytest.mark.parametrize("dtypes", [("int16",), ("uint8", "uint16"), ()])
    def test_only_eight_bits_go_without_a_window(self, dtypes):
        with pytest.raises(ConfigError, match=r"without a window: only uint8 is grey already"):
            InputContract(64, None, dtypes)

    @pytest.mark.parametrize("dtypes", ["uint16", np.uint16, None, (np.uint16,)])
    def test_dtypes_of_the_wrong_kind(self, dtypes):
        message = r"^dtypes: .* is of the wrong kind\. Give a tuple of names"
        with pytest.raises(ConfigError, match=message):
            InputContract(64, Window(424, 1500), dtypes)

    def test_dtypes_in_a_list_are_a_tuple(self):
        assert InputContract(64, None, ["uint8"]) == InputContract(64, None, ("uint8",))
        assert InputContract(64, dtypes=["int16"]).dtypes == ("int16",)

    def test_in_one_line(self):
        assert str(LUNG) == "64x64, window -600,1500"
        assert str(InputContract(512, None, ("uint8",))) == "512x512, 8-bit grey"


class TestParseWindow:
    @pytest.mark.parametrize("text", ["auto", " AUTO "])
    def test_auto(self, text):
        assert parse_window(text) is None

    @pytest.mark.parametrize("text", ["-600,1500", " -600 , 1500.0", "-6e2,1.5e3"])
    def test_level_and_width(self, text):
        assert parse_window(text) == LUNG_WINDOW

    @pytest.mark.parametrize("text", ["", "lung", "1", "1,2,3", "a,b", "1;2"])
    def test_neither(self, text):
        with pytest.raises(ConfigError) as caught:
            parse_window(text)
        assert str(caught.value) == f"window '{text}': write LEVEL,WIDTH in HU as in -600,1500."

    def test_no_width(self):
        with pytest.raises(ConfigError, match="the width must be above 0"):
            parse_window("40,0")


@pytest.mark.parametrize("size", [17, 24, 48])
def test_ignored_pixels_are_fitted_as_a_class_of_their_own(size):
    generator = np.random.default_rng(0)
    classes = np.repeat(np.repeat(generator.integers(0, 3, (8, 6), np.uint8), 4, 0), 4, 1)
    third = InputContract(size).fit_mask(classes)
    ignored = InputContract(size).fit_mask(np.where(classes == 2, np.uint8(255), classes))
    assert np.array_equal(ignored, np.where(third == 2, 255, third))
    alone = InputContract(size).fit_mask(np.where(classes == 2, np.uint8(255), np.uint8(0)))
    assert set(np.unique(alone)) == {0, 255}
