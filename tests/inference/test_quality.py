"""Masks judged without the truth: measures worked by hand, faults on phantoms, and the table."""

import csv
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lungunet import DataError, Plausibility, Window, check_slice, check_volume, measure_slice
from lungunet.data.hu import NO_WINDOW
from lungunet.inference.quality import judge
from lungunet.inference.reasons import put_in_words
from lungunet.inference.record import Record
from lungunet.phantom.phantom import phantom_slice

LUNG_PX = 2 * 48 * 24
BODY_PX = 80 * 112
MM = {"spacing_mm": (5.0, 2.0, 2.0)}


def chest() -> tuple[np.ndarray, np.ndarray]:
    """Return 96x128 of air around a block of tissue with two lungs, and their mask."""
    hu = np.full((96, 128), -1000, np.int16)
    hu[8:88, 8:120] = 40
    hu[24:72, 24:48] = hu[24:72, 80:104] = -850
    return hu, (hu == -850).astype(np.uint8)


def certain(mask: np.ndarray) -> np.ndarray:
    return np.stack([1 - mask, mask]).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("red_slices", 0.0502, "5.02% of the slices with lung are red (usually up to 5.0%)"),
        ("at_border", 0.010003, "1.0003% of the picture's margin is lung (usually up to 1.0%)"),
        ("mean_hu", -449.8, "the lung has -449.8 HU on average (usually -950 to -450)"),
        ("at_border", 0.0152, "1.5% of the picture's margin is lung (usually up to 1.0%)"),
    ],
)
def test_a_value_just_beyond_its_limit_has_the_digits_that_show_it(name, value, said) -> None:
    assert judge({name: value}).reasons == (said,)


def test_probabilities_that_are_no_numbers_are_red() -> None:
    hu, mask = chest()
    spoilt = certain(mask)
    spoilt[:, 40, 40] = np.nan
    found = check_slice(hu, mask, probabilities=spoilt)
    assert found.light == "red"
    assert "nan% of the lung is wrong by the model's own probabilities" in found.reasons[0]


def test_a_good_mask_is_green_and_measured() -> None:
    hu, mask = chest()
    calm = np.zeros(mask.shape, np.float32)
    found = check_slice(hu, mask, probabilities=certain(mask), disagreement=0.0, spread=calm)
    assert (found.light, found.reasons, found.slices) == ("green", (), ())
    assert found.worry < 0.05
    values = dict(found.values)
    assert values.pop("mean_hu") == pytest.approx(-850)
    for opinion in ("disputed", "rule_difference", "builtin_difference"):
        assert values.pop(opinion) == pytest.approx(0, abs=0.02)
    assert values == {
        "mirror_difference": 0,
        "members_difference": 0,
        "expected_error": 0,
        "outside_body": 0,
        "left_out": 0,
        "bare_air": 0,
        "scattered": 0,
        "at_border": 0,
        "side_gap": 0,
        "parts": 2,
        "lung_share": LUNG_PX / (96 * 128),
    }


def test_what_was_not_given_is_undefined() -> None:
    hu, mask = chest()
    values = check_slice(hu, mask, second_opinion=False).values
    missing = {name for name, value in values.items() if value is None}
    opinions = {"disputed", "rule_difference", "builtin_difference"}
    assert missing == {"mirror_difference", "members_difference", "expected_error", *opinions}
    grey = np.clip((hu + 1350) / 1500 * 255, 0, 255).astype(np.uint8)
    assert check_slice(grey, mask).values["mean_hu"] is None
    assert check_slice(grey, mask).light == "green"


@pytest.mark.parametrize(
    "window", [(-600, 1500), (-450, 1100), (-300, 1400), (-300, 1700), (1024, 4095)]
)
def test_grey_of_any_window_that_shows_lung(window: tuple[int, int]) -> None:
    made = phantom_slice(4, 0.5, size=256)
    grey, mask = Window(*window).to_grey(made.image), made.mask // 255
    half = mask.copy()
    half[:, :128] = 0
    assert check_slice(grey, mask).light == "green"
    assert check_slice(grey, half).light == check_slice(grey, 0 * mask).light == "red"


def test_grey_without_a_window_is_asked_about_nobody() -> None:
    made = phantom_slice(4, 0.5, size=256)
    grey, mask = Window(40, 400).to_grey(made.image), made.mask // 255
    said = check_slice(grey, mask)
    assert (said.light, said.reasons) == ("amber", (NO_WINDOW,))
    assert said.values["disputed"] is said.values["builtin_difference"] is None
    assert check_slice(grey, mask, second_opinion=False).light == "green"
    assert check_slice(np.zeros_like(grey), 0 * mask).light == "green"


def test_a_lost_lung() -> None:
    hu, mask = chest()
    mask[:, 64:] = 0
    found = check_slice(hu, mask)
    assert found.light == "red"
    assert found.values["side_gap"] == pytest.approx(LUNG_PX / 2 / BODY_PX, rel=0.06)  # eroded skin
    assert found.values["rule_difference"] == pytest.approx(0.5, rel=0.02)
    opened = 48 * 24 - 4 * 5  # two or so pixels around each corner
    assert found.values["left_out"] == pytest.approx(opened / BODY_PX, rel=0.06)
    assert found.values["parts"] == 1
    assert found.reasons[0] == (
        "50.0% of the lung is missing from the mask, mostly on the right of the picture: the "
        "threshold and the built-in model see it (usually up to 5.0%)"
    )
    assert re.fullmatch(
        r"air within the body is left out, 1\d\.\d% of the body, mostly on the right of the "
        r"picture \(usually up to 7\.0%\)",
        found.reasons[1],
    )
    assert found.reasons[2].startswith(
        "the left of the picture has more lung than the other side, by 1"
    )
    assert found.reasons[-1] == "no lung on the right of the picture, where the rule sees one"
    unaided = check_slice(hu, mask, second_opinion=False)
    said_of_itself = [text for text in found.reasons[1:-1] if "differs from" not in text]
    assert list(unaided.reasons) == said_of_itself


def test_lung_outside_the_body_and_at_the_border() -> None:
    hu, mask = chest()
    mask[20:40, 0:4] = 1
    found = check_slice(hu, mask)
    assert found.light == "red"
    assert found.values["outside_body"] == pytest.approx(80 / (LUNG_PX + 80))
    assert found.values["at_border"] == pytest.approx(20 / (2 * 96 + 2 * 126))
    assert "3.4% of the lung lies outside the body (usually up to 1.0%)" in found.reasons
    assert "4.5% of the picture's margin is lung (usually up to 1.0%)" in found.reasons
    assert len(found.reasons) == 3  # a third part, and nothing new from the rule


class TestWordsOfADispute:
    def test_an_empty_mask_has_no_share_of_its_lung(self) -> None:
        hu, mask = chest()
        one = hu.copy()
        one[:, 64:][mask[:, 64:] > 0] = 40
        found = check_slice(one, np.zeros_like(mask), by="threshold")
        assert re.fullmatch(
            r"the mask is empty, and the built-in model sees lung: 1\d\.\d% of the body, mostly on "
            r"the left of the picture\. Draw it in",
            found.reasons[0],
        )
        # The patient's own lung tells what is as dark as gas, where the mask shows none.
        found = check_slice(one, np.zeros_like(mask))
        assert "is missing where it looks like lung, says the rule" in found.reasons[-1]

    def test_what_the_mask_alone_calls_lung(self) -> None:
        hu, mask = chest()
        mask[70:84, 82:102] = 1
        found = check_slice(hu, mask)
        assert (
            "9.4% of the lung is in the mask alone, mostly on the right of the picture: neither "
            "the threshold nor the built-in model sees it (usually up to 5.0%)" in found.reasons
        )
        assert not [reason for reason in found.reasons if "differs from" in reason]

    def test_both(self) -> None:
        hu, mask = chest()
        mask[70:84, 82:102] = 1
        mask[24:40, 24:48] = 0
        said = " ".join(check_slice(hu, mask, by="lungs").reasons)
        assert re.search(
            r"of the lung is disputed: 62% of that is missing from the mask, for the threshold "
            r"sees it, mostly on the left of the picture, and 38% is in the mask alone, mostly",
            said,
        )

    def test_of_a_tip_one_alone_has_less_to_say_than_two(self) -> None:
        hu, mask = chest()
        hu[mask > 0] = 40
        tip = np.zeros_like(mask)
        tip[30:34, 30:40] = 1
        two, one = check_slice(hu, tip), check_slice(hu, tip, by="lungs")
        assert two.values["disputed"] == pytest.approx(40 / (0.01 * 96 * 128))
        assert one.values["disputed"] == pytest.approx(40 / (0.05 * 96 * 128))
        assert (two.light, one.light) == ("red", "amber")
        said = "32.6% of a small lung (1% of the picture, and this one is smaller) is in"
        assert said in two.reasons[0]
        assert "; " not in "".join(two.reasons)  # which separates them in tables


def test_a_share_of_a_small_mask_says_what_it_is_of() -> None:
    hu, mask = chest()
    small = np.zeros_like(mask)
    small[20:40, 0:4] = 1  # all of it lies outside the body
    found = check_slice(hu, small, second_opinion=False)
    assert found.values["outside_body"] == pytest.approx(80 / (0.05 * 96 * 128))
    assert found.reasons[0] == (
        "13.0% of a small lung (5% of the picture, and this one is smaller) lies outside the body "
        "(usually up to 1.0%)"
    )


@pytest.mark.parametrize(
    ("by", "said"), [("more", "sees more lung"), ("less", "sees less lung"), ("both", "in places")]
)
def test_who_differs_says_how(by: str, said: str) -> None:
    counts = dict.fromkeys(
        ("lung", "left_out", "bare", "missing", "extra", "lungs more", "lungs less"), 10.0
    )
    counts |= {f"{name} left": 9.0 for name in counts} | {"body": 100.0}
    counts["lungs less"] *= 0.1 if by == "more" else 1
    counts["lungs more"] *= 0.1 if by == "less" else 1
    words = put_in_words(counts, ("lungs",))["builtin_difference"]
    assert words.startswith("{} of the lung differs from the built-in model, which sees ")
    assert said in words
    assert words.endswith("others" if by == "both" else "mostly on the left of the picture")


def test_specks() -> None:
    hu, mask = chest()
    mask[30:70:4, 56:72:4] = 1  # 40 pixels, each a part
    found = check_slice(hu, mask)
    assert found.values["parts"] == 42
    assert found.values["scattered"] == pytest.approx(40 / (LUNG_PX + 40))
    assert found.values["outside_body"] == 0
    mask[74:78, 20:60] = 1  # the largest of what is left makes no difference to the two lungs
    assert check_slice(hu, mask).values["scattered"] == pytest.approx(200 / (LUNG_PX + 200))


def test_a_model_that_is_not_sure() -> None:
    hu, mask = chest()
    lung = np.where(mask > 0, 0.8, 0.1).astype(np.float32)
    found = check_slice(hu, mask, probabilities=np.stack([1 - lung, lung]))
    rest = 96 * 128 - LUNG_PX
    assert found.values["expected_error"] == pytest.approx(0.2 + 0.1 * rest / LUNG_PX)
    assert found.reasons == (
        "63.3% of the lung is wrong by the model's own probabilities (usually up to 5.0%)",
    )
    two = np.stack([1 - lung, lung / 2, lung / 2])  # left and right lung as classes of their own
    two[1, :, 64:] = two[2, :, :64] = 0
    two[0] = 1 - two[1] - two[2]
    sides = mask * np.where(np.arange(128) < 64, 1, 2)
    assert check_slice(hu, sides, probabilities=two).values["expected_error"] == pytest.approx(
        0.6 + 0.05 * rest / LUNG_PX
    )


def test_a_mirror_that_says_otherwise() -> None:
    hu, mask = chest()
    found = check_slice(hu, mask, disagreement=0.25)
    assert found.light == "red"
    assert found.values["mirror_difference"] == 0.25
    assert found.reasons == (
        "25.0% of the lung changes when the slice is mirrored (usually up to 5.0%)",
    )
    tip = np.zeros_like(mask)
    tip[30:34, 30:34] = 1  # the share is taken of 5 % of the slice at least
    values = check_slice(hu, tip, disagreement=0.5).values
    assert values["mirror_difference"] == pytest.approx(0.5 * 16 / (0.05 * 96 * 128))
    assert values["mean_hu"] is None  # mostly edge


def test_an_empty_mask_is_right_where_there_is_no_lung() -> None:
    hu, mask = chest()
    belly = np.where(mask > 0, np.int16(30), hu)
    nothing = np.zeros_like(mask)
    assert check_slice(belly, nothing, probabilities=certain(nothing)).light == "green"
    unaided = check_slice(hu, nothing, second_opinion=False)
    assert unaided.light == "red"
    assert unaided.reasons[0].startswith("air within the body is left out, 2")
    assert unaided.reasons[0].endswith("% of the body (usually up to 7.0%)")  # on both sides
    found = check_slice(hu, nothing, probabilities=certain(nothing))
    assert (found.light, found.values["rule_difference"]) == ("red", 1)
    assert re.fullmatch(
        r"the mask is empty, and the threshold and the built-in model see lung: 2\d\.\d% of the "
        r"body\. Draw it in",
        found.reasons[0],
    )


def test_the_mean_hu_of_tissue_is_not_that_of_lung() -> None:
    hu, mask = chest()
    moved = np.roll(mask, 28, axis=1)  # 36 of the 48 columns lie in tissue, 12 in open air
    found = check_slice(hu, moved, second_opinion=False)
    assert found.values["mean_hu"] == (36 * 40 - 12 * 1000) / 48
    assert "the lung has -220 HU on average (usually -950 to -450)" in found.reasons


def test_the_mean_hu_is_the_one_that_is_measured() -> None:
    rng = np.random.default_rng(5)
    hu = cv2.resize(chest()[0].astype(np.float32), (700, 600), interpolation=cv2.INTER_CUBIC)
    hu += rng.normal(0, 30, hu.shape).astype(np.float32)  # blurred edges, halved in the view
    mask = hu < -300
    mask[:60] = mask[-60:] = mask[:, :50] = mask[:, -50:] = False
    wanted = measure_slice(hu, mask).mean_hu
    assert check_slice(hu, mask, second_opinion=False).values["mean_hu"] == pytest.approx(wanted)
    both = np.stack([hu, hu]), np.stack([mask, np.zeros_like(mask)])
    found = check_volume(*both, spacing_mm=(5, 0.5, 0.5), second_opinion=False)
    assert found.values["mean_hu"] == pytest.approx(wanted)


def test_values_without_their_rescale_explain_a_worry_and_are_none() -> None:
    hu, mask = chest()
    stored = (hu.astype(np.int32) + 1024).astype(np.int16)
    lost = check_slice(stored, np.zeros_like(mask), in_hu=False)
    assert lost.light == "red"
    assert "stored without the rescale intercept" in lost.reasons[-1]
    assert check_slice(stored, mask, in_hu=False).reasons == ()  # the model knows them so


@pytest.mark.parametrize("second_opinion", [False, True])
@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda hu: (hu + 1024).astype(np.int16), "stored without the rescale intercept"),
        (lambda hu: ((hu - hu.mean()) / hu.std()).astype(np.float32), "scaled or standardised"),
    ],
)
def test_values_that_cannot_be_hu_are_red_first_of_all(spoil, why: str, second_opinion) -> None:
    hu, mask = chest()
    slice_ = spoil(hu.astype(np.int32))
    for found in (
        check_slice(slice_, mask, second_opinion=second_opinion),
        check_slice(slice_, np.zeros_like(mask), second_opinion=second_opinion),
    ):
        assert (found.light, why in found.reasons[0]) == ("red", True)


def test_a_picture_that_is_no_chest_is_red() -> None:
    air = np.full((64, 96), -1000, np.int16)
    found = check_slice(air, np.zeros_like(air))
    assert (found.light, found.worry) == ("red", 0.5)
    assert found.reasons == ("values -1000 to -1000, nothing as dense as tissue. Export it in HU.",)


def test_large_slices_are_measured_as_small_ones() -> None:
    hu, mask = chest()
    mask[30:70:4, 56:72:4] = 1
    lung = np.where(mask > 0, 0.9, 0.05).astype(np.float32)
    probs = np.stack([1 - lung, lung])
    small = check_slice(hu, mask, probabilities=probs, disagreement=0.02, spread=lung / 9)
    wide = [np.kron(plane, np.ones((4, 4), plane.dtype)) for plane in (hu, mask, *probs)]
    large = check_slice(
        wide[0],
        wide[1],
        probabilities=np.stack(wide[2:]),
        disagreement=0.02,
        spread=wide[3] / 9,
    )
    for name, value in small.values.items():
        # A network sees the steps of enlarged pixels.
        near = 0.02 if name == "builtin_difference" else 0.01
        assert large.values[name] == pytest.approx(value, rel=0.1, abs=near), name


FAULTS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "upside down": lambda mask, _: mask[::-1],
    "shifted": lambda mask, _: np.roll(mask, 8, axis=0),
    "empty": lambda mask, _: np.zeros_like(mask),
    "full": lambda mask, _: np.ones_like(mask),
    "inverted": lambda mask, _: 1 - mask,
    "one lung": lambda mask, _: mask * (np.arange(mask.shape[1]) < mask.shape[1] // 2),
    "leak": lambda mask, _: mask | (np.add.outer(np.arange(128), np.arange(128)) < 60),
    "pepper": lambda mask, rng: mask ^ (rng.random(mask.shape) < 0.05),
}


@pytest.mark.parametrize("patient", range(4))
def test_phantoms_are_green_and_their_faults_red(patient: int) -> None:
    made = phantom_slice(patient, 0.5, size=128)
    mask = made.mask // 255
    assert check_slice(made.image, mask).light == "green"
    for fault, spoil in FAULTS.items():
        spoilt = spoil(mask, np.random.default_rng(patient)).astype(np.uint8)
        assert check_slice(made.image, spoilt).light == "red", fault


def test_three_times_the_limit_is_red() -> None:
    assert judge({"disputed": 0.15}).worry == pytest.approx(0.5)
    assert judge({"disputed": 0.16}).light == "red"
    assert judge({"disputed": 0.14}).light == "amber"
    assert judge({"disputed": 0.05}).light == "green"
    assert judge({"disputed": 0.051}).light == "amber"
    assert judge({"mean_hu": -449.0}).light == "amber"
    assert judge({"mean_hu": -951.0}).light == "amber"
    assert judge({"mean_hu": -450.0}).light == judge({"mean_hu": -950.0}).light == "green"
    both = judge({"disputed": 0.12, "side_gap": 0.2})  # 2.4 and 2 times: 0.64 + 0.44
    assert both.worry == pytest.approx(1 - 0.5 ** (0.8**2 + (2 / 3) ** 2))
    assert both.light == "red"
    assert [reason[:5] for reason in both.reasons] == ["12.0%", "one s"]  # gravest first
    assert judge({"disputed": 1.0}).worry == 1 - 0.5**9  # capped, the others still count


def test_several_measures_near_their_limits_worry_less_than_one_beyond() -> None:
    near = judge({"disputed": 0.049, "side_gap": 0.099, "outside_body": 0.0099})
    beyond = judge({"disputed": 0.0501})
    assert (near.light, beyond.light) == ("green", "amber")
    assert 0 < near.worry < beyond.worry


def test_one_that_differs_alone_makes_no_mask_red() -> None:
    lone = judge({"rule_difference": 0.9, "builtin_difference": 0.9, "disputed": 0.04})
    assert lone.light == "amber"
    hu, mask = chest()
    assert check_slice(hu, mask, by="lungs").values["builtin_difference"] is None
    assert check_slice(hu, mask, by="threshold").values["rule_difference"] is None
    dense = hu.copy()
    dense[mask > 0] = 40  # nobody sees lung there, and the mask says there is
    assert check_slice(dense, mask).values["disputed"] == pytest.approx(1, abs=0.05)


def test_shares_beyond_all_are_said_so() -> None:
    assert judge({"expected_error": 5.153}).reasons[0].startswith("more than 100% of the lung is")


def test_many_measures_just_within_their_limits_are_red_and_say_so() -> None:
    limits = {
        "disputed": 0.05, "mirror_difference": 0.05, "expected_error": 0.05,
        "outside_body": 0.01, "left_out": 0.07, "scattered": 0.03, "at_border": 0.01,
        "side_gap": 0.1, "area_jump": 0.1, "red_slices": 0.05,
    }  # fmt: skip
    values = {name: 0.96 * limit for name, limit in limits.items()} | {"scattered": 0.0297}
    found = judge(values)
    assert found.light == "red"
    assert found.reasons == (
        "many measures are close to their limits, most of all: 3.0% of the lung is in parts beyond "
        "the two largest (usually up to 3.0%)",
    )


def test_little_lung_is_amber_and_much_is_never_worrying() -> None:
    assert [judge({"lung_ml": ml}).light for ml in (0.0, 149.0, 151.0)] == ["amber"] * 2 + ["green"]
    assert judge({"lung_ml": 300.0}).worry == judge({"lung_ml": 9000.0}).worry == 0


measures = st.dictionaries(
    st.sampled_from(["disputed", "expected_error", "outside_body", "side_gap"]),
    st.floats(0, 1),
)


@given(measures, st.sampled_from(["at_border", "scattered"]), st.floats(0, 1))
def test_more_to_say_never_means_less_worry(values: dict[str, float], more: str, by: float) -> None:
    plain, worse = judge(values), judge({**values, more: by})
    assert 0 <= plain.worry <= worse.worry <= 1
    assert len(plain.reasons) <= len(worse.reasons)
    assert (plain.light == "green") == (not plain.reasons) or plain.light == "red"


def test_the_table_is_in_order_of_worry(tmp_path: Path) -> None:
    checked = {
        "fine": judge({"disputed": 0.01, "parts": 2.0}),
        "odd": judge({"disputed": 0.1, "expected_error": None}),
        "bad": judge({"disputed": 1 / 3, "side_gap": 0.25}),
        "also fine": judge({"disputed": 0.01}),
    }
    record = Record(tmp_path, {}, going_on=False)
    for name, trust in checked.items():
        record.add(name, "", [], trust)
    record.write_tables()
    record.close()
    with (tmp_path / "triage.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["bad", "odd", "also fine", "fine"]
    assert [row["light"] for row in rows] == ["red", "amber", "green", "green"]
    assert float(rows[0]["disputed"]) == 1 / 3
    assert float(rows[1]["worry"]) == checked["odd"].worry
    assert rows[0]["reasons"] == "; ".join(checked["bad"].reasons)
    assert (rows[1]["expected_error"], rows[3]["parts"], rows[3]["area_jump"]) == ("", "2.0", "")


def test_shapes_must_fit() -> None:
    hu, mask = chest()
    with pytest.raises(DataError, match=r"mask: shape \(96, 64\), slice: shape \(96, 128\)"):
        check_slice(hu, mask[:, :64])
    with pytest.raises(DataError, match=r"slice: shape \(1, 96, 128\)"):
        check_slice(hu[None], mask[None])
    with pytest.raises(DataError, match=r"probabilities: shape \(2, 96, 64\)"):
        check_slice(hu, mask, probabilities=certain(mask)[..., :64])
    with pytest.raises(DataError, match=r"probabilities: shape \(96, 128\)"):
        check_slice(hu, mask, probabilities=mask.astype(np.float32))
    with pytest.raises(DataError, match=r"spread: shape \(96, 64\), slice: shape \(96, 128\)"):
        check_slice(hu, mask, spread=mask[:, :64].astype(np.float32))


def test_what_is_no_number_is_refused() -> None:
    hu, mask = chest()
    spoilt = hu.astype(np.float32)
    spoilt[40, 40] = np.nan
    with pytest.raises(DataError, match="slice: holds NaN or infinite values"):
        check_slice(spoilt, mask, second_opinion=False)
    with pytest.raises(DataError, match="HU: holds NaN or infinite values"):
        check_volume(spoilt[None], mask[None], second_opinion=False, **MM)
    for share in (np.nan, -0.1, 1.1):
        with pytest.raises(DataError, match=rf"disagreement {share}: is no share\. Pass 0 to 1"):
            check_slice(hu, mask, disagreement=share)
        with pytest.raises(DataError, match=rf"disagreement {share}: is no share\. Pass 0 to 1"):
            check_volume(hu[None], mask[None], disagreement=[share], **MM)


def test_the_light_follows_worry_and_reasons() -> None:
    assert Plausibility(0.1, (), {}).light == "green"
    assert Plausibility(0.1, ("a",), {}).light == "amber"
    assert Plausibility(0.5, ("a",), {}).light == "red"
