import dataclasses
import math

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
import torchmetrics.functional.classification as reference
from hypothesis import given
from hypothesis import strategies as st

from lungunet.errors import DataError
from lungunet.metrics.overlap import (
    METRICS,
    SLICES,
    ConfusionMeter,
    Mean,
    Metric,
    Overlap,
    _bin_of,
    _count_without_sync,
    overlap,
    ratios,
)
from lungunet.metrics.surface import SurfaceDistances


def by_double_loop(pred, mask, n_classes):
    counts = [[0] * n_classes for _ in range(n_classes)]
    for t, p in zip(mask.flatten().tolist(), pred.flatten().tolist(), strict=True):
        counts[t][p] += 1
    return counts


def same(a: Overlap, b: Overlap) -> bool:
    # NaN differs from itself, so dataclasses that hold it never compare equal; their text does.
    return repr(a) == repr(b)


def measured(pred, mask, n_classes=2):
    meter = ConfusionMeter(n_classes)
    meter.update(truth=mask, pred=pred)
    return meter.compute()


def random_pair(seed, n_classes, shape=(3, 17, 23)):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(n_classes, shape, generator=generator) for _ in range(2))


@st.composite
def pairs(draw):
    n_classes = draw(st.integers(2, 4))
    pixels = st.lists(st.tuples(*[st.integers(0, n_classes - 1)] * 2), max_size=40)
    table = torch.tensor(draw(pixels), dtype=torch.int64).reshape(-1, 2)
    return n_classes, table[:, 0], table[:, 1]


class TestOverlap:
    def test_worked_by_hand(self):
        result = overlap(np.array([[50, 10], [5, 35]]))
        assert result.accuracy == 0.85
        assert result.iou == 35 / 50
        assert result.dice == 70 / 85
        assert result.precision == 35 / 45
        assert result.recall == 35 / 40
        assert result.class_iou == (50 / 65, 35 / 50)
        assert result.miou == (50 / 65 + 35 / 50) / 2
        assert result.n_pixels == 100

    def test_lung_merges_the_classes_above_zero(self):
        # Left for right is a mistake of class, not of lung.
        result = overlap(np.array([[10, 1, 2], [3, 20, 4], [5, 6, 30]]))
        assert result.iou == 60 / (60 + 3 + 8)
        assert result.dice == 120 / (120 + 3 + 8)
        assert result.accuracy == 60 / 81
        assert result.class_iou == (10 / 21, 20 / 34, 30 / 47)

    def test_both_empty_is_undefined(self):
        result = overlap(np.array([[12, 0], [0, 0]]))
        undefined = result.iou, result.dice, result.precision, result.recall, result.class_iou[1]
        assert all(map(math.isnan, undefined))
        assert result.miou == result.accuracy == result.class_iou[0] == 1

    def test_one_empty_is_zero(self):
        nothing_predicted = overlap(np.array([[9, 0], [3, 0]]))
        assert nothing_predicted.iou == nothing_predicted.dice == nothing_predicted.recall == 0
        assert math.isnan(nothing_predicted.precision)
        nothing_there = overlap(np.array([[9, 3], [0, 0]]))
        assert nothing_there.iou == nothing_there.dice == nothing_there.precision == 0
        assert math.isnan(nothing_there.recall)

    def test_mean_skips_a_class_in_neither(self):
        result = overlap(np.array([[4, 1, 0], [1, 4, 0], [0, 0, 0]]))
        assert math.isnan(result.class_iou[2])
        assert result.miou == pytest.approx(4 / 6)

    def test_no_pixels(self):
        result = overlap(np.zeros((2, 2), dtype=np.int64))
        assert result.n_pixels == 0
        assert math.isnan(result.accuracy)
        assert math.isnan(result.miou)

    def test_counts_beyond_32_bits(self):
        result = overlap(np.array([[2**40, 2**33], [2**33, 2**40]]))
        assert result.n_pixels == 2**41 + 2**34
        assert result.iou == 2**40 / (2**40 + 2**34)

    def test_tensor_and_array_agree(self):
        counts = np.array([[5, 1], [2, 7]], dtype=np.int32)
        assert overlap(torch.from_numpy(counts)) == overlap(counts)

    def test_is_frozen_and_of_plain_numbers(self):
        result = overlap(np.array([[5, 1], [2, 7]]))
        with pytest.raises(dataclasses.FrozenInstanceError):
            result.iou = 1.0
        assert type(result.iou) is type(result.accuracy) is type(result.class_iou[0]) is float
        assert type(result.n_pixels) is int

    @pytest.mark.parametrize(
        ("counts", "message"),
        [
            (np.zeros((2, 3), int), r"shape \(2, 3\)"),
            (np.zeros((1, 1), int), r"shape \(1, 1\)"),
            (np.zeros(4, int), r"shape \(4,\)"),
            (np.zeros((2, 2)), "float64"),
            (np.array([[1, -1], [0, 2]]), "-1"),
        ],
    )
    def test_refuses_what_is_no_confusion_matrix(self, counts, message):
        with pytest.raises(DataError, match=message):
            overlap(counts)


class TestRatios:
    @pytest.mark.parametrize("n_classes", [2, 3, 5])
    def test_many_at_once_are_those_of_each(self, n_classes):
        counts = np.random.default_rng(n_classes).integers(0, 4, (3, 7, n_classes, n_classes))
        counts[0, :2] = 0
        counts[1, 2, 1:] = counts[1, 2, :, 1:] = 0  # no lung in either
        together = ratios(counts)
        for place in np.ndindex(3, 7):
            alone = dataclasses.asdict(overlap(counts[place]))
            for name, values in together.items():
                assert values.shape == (3, 7)
                assert values.dtype == np.float64
                assert repr(float(values[place])) == repr(alone[name])

    def test_sums_of_the_bootstrap_are_floats(self):
        counts = np.array([[[2**40, 3], [5, 2**33]]])
        for name, values in ratios(counts.astype(float)).items():
            assert values == ratios(counts)[name]

    def test_every_metric_is_a_ratio_or_a_distance(self):
        measured_on_slices = {field.name for field in dataclasses.fields(SurfaceDistances)}
        of_slices = SLICES.metrics
        assert set(of_slices) - set(ratios(np.eye(2, dtype=int))) < measured_on_slices
        assert set(METRICS) - set(of_slices) == {n for n, m in METRICS.items() if m.of_scans}
        assert [SLICES.column(name) for name in ("iou", "hd95")] == ["iou", "hd95_px"]

    def test_headings_begin_with_a_capital_and_leave_abbreviations_alone(self):
        headings = [METRICS[name].heading for name in ("iou", "miou", "dice", "hd95", "accuracy")]
        assert headings == ["Lung IoU", "mIoU", "Dice", "HD95, px", "Accuracy"]


class TestAgreement:
    @pytest.mark.parametrize("n_classes", [2, 3, 5])
    def test_counts_are_those_of_a_double_loop(self, n_classes):
        pred, mask = random_pair(n_classes, n_classes)
        meter = ConfusionMeter(n_classes)
        meter.update(truth=mask, pred=pred)
        assert meter.counts.tolist() == by_double_loop(pred, mask, n_classes)

    def test_torchmetrics_binary(self):
        pred, mask = random_pair(0, 2)
        result = measured(pred, mask)
        assert result.accuracy == pytest.approx(reference.binary_accuracy(pred, mask).item())
        assert result.iou == pytest.approx(reference.binary_jaccard_index(pred, mask).item())
        assert result.dice == pytest.approx(reference.binary_f1_score(pred, mask).item())
        assert result.precision == pytest.approx(reference.binary_precision(pred, mask).item())
        assert result.recall == pytest.approx(reference.binary_recall(pred, mask).item())

    @pytest.mark.parametrize("n_classes", [2, 4])
    def test_torchmetrics_multiclass(self, n_classes):
        pred, mask = random_pair(1, n_classes)
        result = measured(pred, mask, n_classes)
        per_class = reference.multiclass_jaccard_index(pred, mask, n_classes, average="none")
        accuracy = reference.multiclass_accuracy(pred, mask, n_classes, average="micro")
        assert result.class_iou == pytest.approx(tuple(per_class.tolist()))
        assert result.miou == pytest.approx(per_class.mean().item())
        assert result.accuracy == pytest.approx(accuracy.item())

    def test_smp(self):
        pred, mask = random_pair(2, 2)
        stats = smp.metrics.get_stats(pred, mask, mode="binary")
        result = measured(pred, mask)
        assert result.iou == pytest.approx(smp.metrics.iou_score(*stats, reduction="micro").item())
        assert result.dice == pytest.approx(smp.metrics.f1_score(*stats, reduction="micro").item())

    @pytest.mark.parametrize("n_classes", [2, 4])
    def test_the_way_of_other_devices_counts_the_same(self, n_classes):
        pred, mask = random_pair(3, n_classes)
        n_bins = n_classes**2 + 1
        bins = _bin_of(mask.flatten(), pred.flatten(), n_classes)
        counts = _count_without_sync(bins, n_bins)
        assert counts.dtype == torch.int64
        expected = by_double_loop(pred, mask, n_classes)
        assert counts[:-1].reshape(n_classes, n_classes).tolist() == expected
        assert counts[-1] == 0

    @pytest.mark.parametrize("bad", [(-1, 0), (0, -1), (2, 0), (0, 2), (255, 1)])
    def test_the_way_of_other_devices_sets_strangers_apart(self, bad):
        pred, mask = torch.tensor([bad[0], 1]), torch.tensor([bad[1], 1])
        assert _count_without_sync(_bin_of(mask, pred, 2), 5).tolist() == [0, 0, 0, 1, 1]


class TestProperties:
    @given(pairs())
    def test_bounds(self, pair):
        n_classes, pred, mask = pair
        result = measured(pred, mask, n_classes)
        assert math.isnan(result.iou) == math.isnan(result.dice)
        if not math.isnan(result.iou):
            assert 0 <= result.iou <= result.dice <= 1
            assert result.dice == pytest.approx(2 * result.iou / (1 + result.iou))

    @given(pairs())
    def test_swapping_truth_and_prediction(self, pair):
        n_classes, pred, mask = pair
        there, back = measured(pred, mask, n_classes), measured(mask, pred, n_classes)
        swapped = dataclasses.replace(back, precision=back.recall, recall=back.precision)
        assert same(there, swapped)

    @given(pairs(), st.integers(0, 40))
    def test_merging_is_concatenating_in_any_order(self, pair, cut):
        n_classes, pred, mask = pair
        whole, first, second = (ConfusionMeter(n_classes) for _ in range(3))
        whole.update(truth=mask, pred=pred)
        first.update(truth=mask[cut:], pred=pred[cut:])
        second.update(truth=mask[:cut], pred=pred[:cut])
        second += first
        assert torch.equal(second.counts, whole.counts)
        first.update(truth=mask[:cut], pred=pred[:cut])
        assert torch.equal(first.counts, whole.counts)

    @given(pairs())
    def test_a_perfect_prediction(self, pair):
        n_classes, pred, _ = pair
        result = measured(pred, pred, n_classes)
        known = [v for v in (*result.class_iou, result.accuracy, result.iou) if not math.isnan(v)]
        assert all(value == 1 for value in known)


class TestConfusionMeter:
    def test_arrays_are_told_how_to_become_tensors(self):
        mask = np.zeros((2, 2), np.uint8)
        with pytest.raises(DataError, match=r"^truth: a ndarray, no tensor\. Pass"):
            ConfusionMeter(2).update(truth=mask, pred=torch.from_numpy(mask))

    def test_last_batch_of_one_weighs_by_its_pixels(self):
        meter = ConfusionMeter(2)
        ones = torch.ones(8, 5, 7, dtype=torch.int64)
        meter.update(truth=ones, pred=torch.zeros(8, 5, 7, dtype=torch.int64))
        meter.update(truth=ones[:1], pred=ones[:1])
        assert meter.compute().iou == pytest.approx(1 / 9)  # the mean of the two IoUs is 1/2

    @pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int16, torch.int32])
    def test_other_index_dtypes(self, dtype):
        pred, mask = random_pair(4, 2)
        assert measured(pred.to(dtype), mask.to(dtype)) == measured(pred, mask)

    def test_non_contiguous(self):
        pred, mask = random_pair(5, 3)
        turned = measured(pred.transpose(1, 2).flip(0), mask.transpose(1, 2).flip(0), 3)
        assert turned == measured(pred, mask, 3)

    def test_reset(self):
        meter = ConfusionMeter(2)
        pred, mask = random_pair(6, 2)
        meter.update(truth=mask, pred=pred)
        meter.reset()
        assert meter.counts.tolist() == [[0, 0], [0, 0]]

    def test_counts_are_a_copy(self):
        meter = ConfusionMeter(2)
        meter.counts.fill_(7)
        assert meter.compute().n_pixels == 0

    def test_counts_of_a_checkpoint_come_back(self):
        pred, mask = random_pair(7, 3)
        stopped, resumed = ConfusionMeter(3), ConfusionMeter(3)
        stopped.update(truth=mask, pred=pred)
        resumed.merge(np.array(stopped.counts.tolist()))
        assert torch.equal(resumed.counts, stopped.counts)
        resumed.merge(stopped.counts.numpy().astype(">i8"))
        assert torch.equal(resumed.counts, 2 * stopped.counts)

    def test_empty_batch(self):
        meter = ConfusionMeter(2)
        nothing = torch.zeros(0, 4, 4, dtype=torch.int64)
        meter.update(truth=nothing, pred=nothing)
        assert meter.compute().n_pixels == 0

    @pytest.mark.parametrize("value", [-1, 2, 255])
    @pytest.mark.parametrize("name", ["pred", "truth"])
    def test_an_index_outside_the_classes_is_refused_and_not_counted(self, name, value):
        good, bad = torch.tensor([0, 1, 1]), torch.tensor([0, value, 1])
        meter = ConfusionMeter(2)
        with pytest.raises(DataError, match=rf"{name}: class index {value} "):
            meter.update(**{"truth": good, "pred": good, name: bad})
        assert meter.compute().n_pixels == 0

    def test_an_index_outside_on_another_device_is_found_by_compute(self):
        meter = ConfusionMeter(2)
        meter._add(torch.tensor([5, 0, 0, 4, 3]))  # what update gives on a device
        merged = ConfusionMeter(2)
        merged += meter
        for each in (meter, merged):
            with pytest.raises(DataError, match=r"3 pixels outside the classes 0\.\.1"):
                each.compute()

    def test_refuses_shapes_that_differ(self):
        with pytest.raises(DataError, match=r"\(2, 3\).*\(3, 2\)"):
            ConfusionMeter(2).update(truth=torch.zeros(3, 2).long(), pred=torch.zeros(2, 3).long())

    def test_refuses_probabilities(self):
        with pytest.raises(DataError, match=r"pred: dtype torch.float32"):
            ConfusionMeter(2).update(truth=torch.zeros(2, 3).long(), pred=torch.zeros(2, 3))

    def test_refuses_devices_that_differ(self):
        with pytest.raises(DataError, match="pred: on meta, truth: on cpu"):
            ConfusionMeter(2).update(
                truth=torch.zeros(2).long(), pred=torch.zeros(2, device="meta").long()
            )

    def test_refuses_to_merge_other_classes(self):
        for other in (ConfusionMeter(3), np.zeros((1, 4), int), np.zeros((2, 2))):
            with pytest.raises(DataError, match=r"shape \(.*; this meter has 2 x 2 integers"):
                ConfusionMeter(2).merge(other)

    def test_takes_neither_by_place(self):
        pred, mask = random_pair(9, 2)
        with pytest.raises(TypeError):
            ConfusionMeter(2).update(pred, mask)

    def test_refuses_one_class(self):
        with pytest.raises(DataError, match="at least 2"):
            ConfusionMeter(1)

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_never_waits_for_the_device(self):
        pred, mask = (t.cuda() for t in random_pair(8, 3))
        loss = torch.tensor(2.0, device="cuda")
        meter, mean = ConfusionMeter(3), Mean()
        meter.update(truth=mask, pred=pred)  # the first call may load kernels
        torch.use_deterministic_algorithms(True)
        torch.cuda.set_sync_debug_mode("error")
        try:
            meter.update(truth=mask, pred=pred)
            mean.update(loss, weight=3)
        finally:
            torch.cuda.set_sync_debug_mode("default")
            torch.use_deterministic_algorithms(False)
        expected = 2 * np.array(by_double_loop(pred, mask, 3))
        assert meter.counts.tolist() == expected.tolist()
        assert mean.compute() == 2


class TestMean:
    def test_weighs(self):
        mean = Mean()
        mean.update(torch.tensor(1.0), weight=8)
        mean.update(torch.tensor(10.0), weight=1)
        assert mean.compute() == 2

    def test_numbers_do(self):
        mean = Mean()
        mean.update(3.0)
        mean.update(5.0)
        assert mean.compute() == 4

    def test_nothing_is_undefined(self):
        assert math.isnan(Mean().compute())

    def test_nan_is_not_hidden(self):
        mean = Mean()
        mean.update(torch.tensor(1.0))
        mean.update(torch.tensor(math.nan))
        assert math.isnan(mean.compute())

    @pytest.mark.parametrize("value", [0.1, torch.tensor(0.1, dtype=torch.float64)])
    def test_sums_in_float64(self, value):
        mean = Mean()
        for _ in range(1000):
            mean.update(value)
        assert mean.sums.dtype == torch.float64
        assert mean.compute() == pytest.approx(0.1, rel=1e-12)

    def test_keeps_no_graph(self):
        mean = Mean()
        mean.update(torch.tensor(2.0, requires_grad=True) * 1)
        assert not mean.sums.requires_grad

    def test_merging_is_feeding_both(self):
        first, second = Mean(), Mean()
        first.update(torch.tensor(1.0), weight=3)
        second.update(torch.tensor(5.0), weight=1)
        first += second
        assert first.compute() == 2
        second.merge(torch.tensor([3.0, 3.0], dtype=torch.float64))
        assert second.compute() == 2

    def test_sums_are_a_copy(self):
        mean = Mean()
        mean.sums.fill_(3)
        assert math.isnan(mean.compute())

    def test_reset(self):
        mean = Mean()
        mean.update(2.0)
        mean.reset()
        assert math.isnan(mean.compute())

    def test_refuses_foreign_sums(self):
        with pytest.raises(DataError, match=r"\(3,\)"):
            Mean().merge(torch.zeros(3))


class TestIgnored:
    @pytest.mark.parametrize("classes", [2, 4])
    def test_is_as_if_the_pixels_were_not_there(self, classes):
        generator = torch.Generator().manual_seed(classes)
        truth = torch.randint(classes, (3, 17, 23), generator=generator)
        pred = torch.randint(classes, (3, 17, 23), generator=generator)
        truth[:, 4:9] = 255
        some, ignoring = ConfusionMeter(classes), ConfusionMeter(classes, ignore_index=255)
        some.update(truth=truth[truth != 255], pred=pred[truth != 255])
        pred[:, 5] = 99  # whatever was predicted there
        ignoring.update(truth=truth.to(torch.uint8), pred=pred)
        assert torch.equal(ignoring.counts, some.counts)
        assert ignoring.compute().n_pixels == 3 * 12 * 23

    def test_other_values_are_refused_still(self):
        meter = ConfusionMeter(2, ignore_index=255)
        with pytest.raises(DataError, match="254"):
            meter.update(truth=torch.tensor([254]), pred=torch.tensor([0]))
        with pytest.raises(DataError, match="255 is not one of"):
            meter.update(truth=torch.tensor([0]), pred=torch.tensor([255]))
        with pytest.raises(DataError, match="255"):
            ConfusionMeter(2).update(truth=torch.tensor([255]), pred=torch.tensor([0]))

    def test_all_ignored_is_undefined(self):
        meter = ConfusionMeter(2, ignore_index=255)
        meter.update(truth=torch.full((2, 3), 255), pred=torch.ones(2, 3, dtype=torch.int64))
        assert math.isnan(meter.compute().accuracy)

    def test_a_class_cannot_be_ignored(self):
        with pytest.raises(DataError, match="ignore_index: 1 is a class"):
            ConfusionMeter(2, ignore_index=1)


@pytest.mark.parametrize(
    ("title", "unit", "heading"),
    [
        ("lung IoU", "", "Lung IoU"),
        ("mIoU", "", "mIoU"),
        ("volume error", "mL", "Volume error, mL"),
        ("J", "", "J"),
        ("e", "px", "e, px"),
    ],
)
def test_headings_begin_with_a_capital_where_they_are_words(
    title: str, unit: str, heading: str
) -> None:
    assert Metric(title, unit=unit).heading == heading
