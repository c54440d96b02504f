import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lungunet.errors import ConfigError, DataError
from lungunet.metrics import bootstrap
from lungunet.metrics.bootstrap import Interval, bootstrap_interval, caution_of_few, mean_interval

NOTHING = Interval(math.nan, math.nan)


@pytest.mark.parametrize(("count", "narrow"), [(1, False), (2, True), (19, True), (20, False)])
def test_few_patients_are_told(count: int, narrow: bool) -> None:
    told = f"of {count} patients they are too narrow (fewer than 20)"
    assert caution_of_few(count, "patient") == (told if narrow else "")


def by_loop(table, groups, of_cases, *, resamples, level, seed):
    """Draw patients, lay their cases side by side, compute, again and again."""
    names = sorted(set(groups))
    rng = np.random.default_rng(seed)
    drawn = []
    for picks in rng.integers(len(names), size=(resamples, len(names))):
        cases = [
            row for pick in picks for row, g in zip(table, groups, strict=True) if g == names[pick]
        ]
        drawn.append(of_cases(np.array(cases)))
    low, high = 100 * (1 - level) / 2, 100 * (1 + level) / 2
    return Interval(np.nanpercentile(drawn, low), np.nanpercentile(drawn, high))


def pooled_iou(sums):
    return sums[:, 0] / sums.sum(axis=1)


def same(ours, theirs):
    return dataclasses.astuple(ours) == pytest.approx(
        dataclasses.astuple(theirs), rel=1e-9, nan_ok=True
    )


def width(interval):
    return interval.high - interval.low


def lopsided(seed=0):
    """Patients of 1 to 6 cases, not in order, with counts of TP, FP, FN for each case."""
    rng = np.random.default_rng(seed)
    groups = [f"patient-{p}" for p in range(7) for _ in range(1 + p % 6)]
    rng.shuffle(groups)
    return rng.integers(0, 1000, size=(len(groups), 3)), groups


class TestAgreement:
    @pytest.mark.parametrize("level", [0.95, 0.5])
    def test_pooled_ratio_of_a_loop(self, level):
        table, groups = lopsided()
        settings = {"resamples": 200, "level": level, "seed": 3}
        theirs = by_loop(table, groups, lambda cases: cases[:, 0].sum() / cases.sum(), **settings)
        assert same(bootstrap_interval(table, groups, statistic=pooled_iou, **settings), theirs)

    def test_mean_of_a_loop(self):
        table, groups = lopsided()
        values = table[:, 0] / table.sum(axis=1)
        settings = {"resamples": 200, "level": 0.9, "seed": 4}
        theirs = by_loop(values, groups, np.mean, **settings)
        assert same(mean_interval(values, groups, **settings), theirs)

    def test_paired_difference_of_a_loop(self):
        table, groups = lopsided()
        both = np.concatenate([table, lopsided(seed=1)[0]], axis=1)

        def difference(sums):
            return pooled_iou(sums[:, :3]) - pooled_iou(sums[:, 3:])

        settings = {"resamples": 200, "level": 0.95, "seed": 5}
        ours = bootstrap_interval(both, groups, statistic=difference, **settings)
        loop = by_loop(
            both, groups, lambda cases: difference(cases.sum(axis=0)[None])[0], **settings
        )
        assert same(ours, loop)

    def test_normal_theory(self):
        # 400 patients of one case: the interval is the mean and 1.96 standard errors either side.
        values = np.random.default_rng(0).normal(5, 2, size=400)
        ours = mean_interval(values, range(400), resamples=20_000)
        error = values.std() / math.sqrt(400)
        assert ours.low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
        assert ours.high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)

    @pytest.mark.parametrize(("level", "lowest", "highest"), [(0.95, 0.88, 0.98), (0.5, 0.4, 0.6)])
    def test_covers_the_truth_as_often_as_it_says(self, level, lowest, highest):
        rng = np.random.default_rng(1)
        groups = np.repeat(np.arange(40), 3)
        hits = 0
        for trial in range(300):
            values = rng.normal(size=40)[groups] + rng.normal(size=120)
            found = mean_interval(values, groups, resamples=300, level=level, seed=trial)
            hits += found.low <= 0 <= found.high
        assert lowest < hits / 300 < highest


class TestGroups:
    def test_patients_are_drawn_whole(self):
        # All that varies lies between patients: 20 cases of one say no more than 1.
        patients = np.random.default_rng(2).normal(size=25)
        groups = np.repeat(np.arange(25), 20)
        clustered = mean_interval(patients[groups], groups)
        alone = mean_interval(patients[groups], np.arange(500))
        assert width(clustered) == pytest.approx(width(mean_interval(patients, range(25))))
        assert width(clustered) > 3 * width(alone)

    def test_order_of_cases_and_names_of_groups_do_not_matter(self):
        table, groups = lopsided()
        expected = bootstrap_interval(table, groups, statistic=pooled_iou)
        order = np.random.default_rng(0).permutation(len(table))
        turned = bootstrap_interval(table[order], [groups[i] for i in order], statistic=pooled_iou)
        numbered = bootstrap_interval(
            table, np.unique(groups, return_inverse=True)[1], statistic=pooled_iou
        )
        assert expected == turned == numbered

    def test_a_large_patient_weighs_by_its_cases(self):
        values, groups = [0.0] * 9 + [1.0], ["a"] * 9 + ["b"]
        # Of two patients: a a, a b or b b. The mean of a b is 1/10, not 1/2.
        assert mean_interval(values, groups) == Interval(0, 1)
        assert mean_interval(values, groups, level=0.01) == Interval(0.1, 0.1)

    def test_paired_models_on_the_same_resamples(self):
        table, groups = lopsided()
        both = np.concatenate([table, table], axis=1)

        def difference(sums):
            return pooled_iou(sums[:, :3]) - pooled_iou(sums[:, 3:])

        assert bootstrap_interval(both, groups, statistic=difference) == Interval(0, 0)


class TestUndefined:
    def test_nan_is_skipped(self):
        values = [0.5, math.nan, 0.75, 0.25, math.nan, 1.0]
        groups = ["a", "a", "b", "c", "d", "b"]
        known = mean_interval([0.5, 0.75, 0.25, 1.0], ["a", "b", "c", "b"])
        assert mean_interval(values, groups) == known

    @pytest.mark.parametrize(
        ("values", "groups"),
        [
            ([math.nan] * 3, "abc"),
            ([0.5, 0.6, 0.7], "aaa"),
            ([0.5, math.nan, 0.7], "aba"),
            ([0.5], "a"),
            ([], ""),
        ],
    )
    def test_fewer_than_two_patients_with_a_value(self, values, groups):
        assert repr(mean_interval(values, list(groups))) == repr(NOTHING)

    def test_one_patient_gives_no_pooled_interval(self):
        table, _ = lopsided()
        lone = bootstrap_interval(table, ["a"] * len(table), statistic=pooled_iou)
        assert repr(lone) == repr(NOTHING)

    def test_a_ratio_without_denominator_in_all_resamples(self):
        empty = bootstrap_interval(np.zeros((3, 2), int), ["a", "b", "c"], statistic=pooled_iou)
        assert repr(empty) == repr(NOTHING)

    def test_resamples_without_denominator_are_left_out(self):
        # b alone, a quarter of all draws, has no pixels; what is left is 3/4 in every resample.
        table = np.array([[3, 1], [0, 0]])
        assert bootstrap_interval(table, ["a", "b"], statistic=pooled_iou) == Interval(0.75, 0.75)

    def test_infinite_resamples_are_left_out(self):
        table = np.array([[3, 4], [1, 0]])
        odds = bootstrap_interval(table, ["a", "b"], statistic=lambda s: s[:, 0] / s[:, 1])
        assert odds == Interval(0.75, 1)


class TestBehaviour:
    def test_drawn_in_parts_it_is_the_same(self, monkeypatch):
        table, groups = lopsided()
        draw = {"statistic": pooled_iou, "resamples": 101}
        whole = bootstrap_interval(table, groups, **draw)
        monkeypatch.setattr(bootstrap, "_KEPT", 0)
        monkeypatch.setattr(bootstrap, "_BLOCK", 7 * len(set(groups)) + 1)
        assert bootstrap_interval(table, groups, **draw) == whole

    def test_one_draw_serves_all_metrics(self, monkeypatch):
        drawn, draw = [], bootstrap._draw_counts
        monkeypatch.setattr(bootstrap, "_draw_counts", lambda *how: drawn.append(how) or draw(*how))
        for metric in (pooled_iou, lambda sums: sums[:, 0]):
            for seed in (91, 92):
                bootstrap_interval(*lopsided(), statistic=metric, seed=seed)
        assert [seed for *_, seed in drawn] == [91, 92]

    def test_same_seed_same_interval(self):
        table, groups = lopsided()
        first, again, other = (
            bootstrap_interval(table, groups, statistic=pooled_iou, seed=seed) for seed in (1, 1, 2)
        )
        assert first == again != other

    def test_defaults(self):
        table, groups = lopsided()
        told = {"resamples": 2000, "level": 0.95, "seed": 0}
        ratio = bootstrap_interval(table, groups, statistic=pooled_iou)
        assert ratio == bootstrap_interval(table, groups, statistic=pooled_iou, **told)
        assert mean_interval(table[:, 0], groups) == mean_interval(table[:, 0], groups, **told)

    def test_the_global_generator_is_left_alone(self):
        np.random.seed(0)  # noqa: NPY002  # the very thing under test
        before = np.random.get_state()[1].copy()  # noqa: NPY002
        first = mean_interval([1.0, 2.0, 4.0], ["a", "b", "c"], resamples=50)
        assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002
        np.random.seed(1)  # noqa: NPY002
        assert mean_interval([1.0, 2.0, 4.0], ["a", "b", "c"], resamples=50) == first

    def test_counts_beyond_32_bits(self):
        table = np.array([[2**40, 2**40], [2**41, 2**41]], dtype=np.int64)
        assert bootstrap_interval(table, ["a", "b"], statistic=pooled_iou) == Interval(0.5, 0.5)

    @pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
    def test_small_dtypes_do_not_overflow(self, dtype):
        # 300 cases each: their sum does not fit into uint8.
        table = np.ones((600, 1), dtype=dtype)
        groups = np.repeat([0, 1], 300)
        ours = bootstrap_interval(table, groups, statistic=lambda sums: sums[:, 0])
        assert ours == Interval(600, 600)

    def test_a_wider_level_holds_a_narrower_one(self):
        table, groups = lopsided()
        narrow, wide = (
            bootstrap_interval(table, groups, statistic=pooled_iou, level=level)
            for level in (0.5, 0.95)
        )
        assert wide.low < narrow.low < narrow.high < wide.high

    @settings(max_examples=40)
    @given(
        st.lists(st.tuples(st.floats(0, 1) | st.just(math.nan), st.integers(0, 4)), max_size=12),
        st.integers(0, 2**32),
    )
    def test_lies_between_the_extremes(self, cases, seed):
        values, groups = [value for value, _ in cases], [group for _, group in cases]
        known = {group for value, group in cases if not math.isnan(value)}
        found = mean_interval(values, groups, resamples=20, seed=seed)
        if len(known) < 2:
            assert repr(found) == repr(NOTHING)
        else:
            assert np.nanmin(values) - 1e-9 <= found.low <= found.high <= np.nanmax(values) + 1e-9

    def test_is_frozen_and_of_plain_numbers(self):
        found = mean_interval(np.array([1, 2], dtype=np.float32), np.array(["a", "b"]))
        assert type(found.low) is type(found.high) is float
        with pytest.raises(dataclasses.FrozenInstanceError):
            found.low = 0.0


class TestRefuses:
    @pytest.mark.parametrize("shape", [(3,), (3, 2, 2), ()])
    def test_a_table_of_other_axes(self, shape):
        with pytest.raises(DataError, match=r"^table: shape \(.*\. Give one row per case"):
            bootstrap_interval(np.ones(shape), ["a", "b", "c"], statistic=pooled_iou)

    def test_values_of_other_axes(self):
        with pytest.raises(DataError, match=r"^values: shape \(3, 2\)\. Give one number per case"):
            mean_interval(np.ones((3, 2)), ["a", "b", "c"])

    def test_groups_of_other_length(self):
        with pytest.raises(DataError, match=r"^groups: shape \(2,\) for 3 cases\. Give the pat"):
            bootstrap_interval(np.ones((3, 2)), ["a", "b"], statistic=pooled_iou)
        with pytest.raises(DataError, match=r"^groups: shape \(4,\) for 3 cases"):
            mean_interval([1, 2, math.nan], ["a", "b", "c", "d"])

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_sums_that_would_not_be_finite(self, value):
        table = np.array([[1, 2], [3, value]])
        with pytest.raises(DataError, match=rf"^case 1: {value}\. Sums must be finite: score an"):
            bootstrap_interval(table, ["a", "b"], statistic=pooled_iou)

    def test_an_infinite_distance_in_a_mean(self):
        with pytest.raises(DataError, match=r"^case 2: inf\. .*diagonal"):
            mean_interval([math.nan, 1, math.inf], ["a", "b", "c"])

    @pytest.mark.parametrize("resamples", [0, -1])
    def test_no_resamples(self, resamples):
        with pytest.raises(ConfigError, match=rf"^resamples: {resamples}\. Give at least 1"):
            mean_interval([1, 2], ["a", "b"], resamples=resamples)

    @pytest.mark.parametrize("level", [0, 1, 95, math.nan])
    def test_a_level_that_is_no_share(self, level):
        with pytest.raises(ConfigError, match=rf"^level: {level}\. Give a share between 0 and 1"):
            mean_interval([1, 2], ["a", "b"], level=level)

    @pytest.mark.parametrize("statistic", [np.mean, lambda sums: sums, lambda sums: sums[0]])
    def test_a_statistic_of_another_shape(self, statistic):
        with pytest.raises(ConfigError, match=r"^statistic: gives shape .* \(50, 2\)\. Return one"):
            bootstrap_interval(np.ones((3, 2)), ["a", "b", "c"], statistic=statistic, resamples=50)
