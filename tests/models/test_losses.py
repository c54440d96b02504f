import itertools
import math

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F

from lungunet.errors import ConfigError, DataError
from lungunet.models.losses import CrossEntropyDiceLoss, _distance, build_loss

NAMES = ["ce-dice", "ce", "dice", "focal", "tversky", "lovasz", "boundary"]
IGNORED = 255

CE = CrossEntropyDiceLoss(ce_weight=1, dice_weight=0)
DICE = CrossEntropyDiceLoss(ce_weight=0, dice_weight=1)


def batch(n=3, classes=2, height=6, width=9, seed=0):
    """Random logits and masks; in every slice every class occurs."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, classes, height, width, generator=generator)
    mask = torch.randint(classes, (n, height, width), generator=generator)
    mask[:, 0, :classes] = torch.arange(classes)
    return logits, mask


def certain(pred, classes=2):
    """Logits that are sure of ``pred``."""
    return 60 * F.one_hot(pred, classes).movedim(-1, 1).double() - 30


def dice_by_double_loop(logits, mask):
    probs = torch.softmax(logits.double(), dim=1).numpy()
    n, classes, height, width = probs.shape
    per_slice = []
    for i in range(n):
        per_class = []
        for c in range(1, classes):
            both = predicted = there = 0.0
            for y in range(height):
                for x in range(width):
                    truth = float(mask[i, y, x] == c)
                    both += probs[i, c, y, x] * truth
                    predicted += probs[i, c, y, x]
                    there += truth
            share = predicted / (height * width)
            per_class.append(1 - 2 * both / (predicted + there) if there else share)
        per_slice.append(sum(per_class) / (classes - 1))
    return sum(per_slice) / n


class TestReference:
    @pytest.mark.parametrize("classes", [2, 3, 5])
    def test_cross_entropy_is_that_of_torch(self, classes):
        logits, mask = batch(classes=classes)
        torch.testing.assert_close(CE(logits, mask), F.cross_entropy(logits, mask))

    @pytest.mark.parametrize("classes", [2, 3])
    def test_dice_is_that_of_a_double_loop(self, classes):
        logits, mask = batch(classes=classes)
        mask[1] = 0  # a slice without lung
        mask[2][mask[2] == classes - 1] = 0  # a slice without one class
        assert DICE(logits, mask).item() == pytest.approx(dice_by_double_loop(logits, mask), 1e-5)

    @pytest.mark.parametrize("classes", [2, 4])
    def test_dice_is_that_of_smp_for_one_slice_that_holds_all_classes(self, classes):
        logits, mask = batch(n=1, classes=classes)
        theirs = smp.losses.DiceLoss("multiclass", classes=list(range(1, classes)))
        torch.testing.assert_close(DICE(logits, mask), theirs(logits, mask))

    def test_the_whole_is_the_weighted_sum(self):
        logits, mask = batch()
        loss = CrossEntropyDiceLoss(ce_weight=0.25, dice_weight=3)
        torch.testing.assert_close(
            loss(logits, mask), 0.25 * CE(logits, mask) + 3 * DICE(logits, mask)
        )


class TestSliceWithoutLung:
    EMPTY = torch.zeros(1, 5, 8, dtype=torch.int64)

    def test_predicting_nothing_costs_nothing(self):
        assert DICE(certain(self.EMPTY), self.EMPTY).item() == pytest.approx(0, abs=1e-12)

    def test_predicting_lung_everywhere_costs_one(self):
        assert DICE(certain(1 - self.EMPTY), self.EMPTY).item() == pytest.approx(1)

    def test_costs_the_share_called_lung(self):
        pred = self.EMPTY.clone()
        pred[0, :2, :5] = 1  # 10 of 40 pixels
        assert DICE(certain(pred), self.EMPTY).item() == pytest.approx(0.25)

    def test_pushes_lung_down_with_a_force_that_does_not_vanish(self):
        logits = torch.zeros(1, 2, 512, 512, requires_grad=True)
        DICE(logits, torch.zeros(1, 512, 512, dtype=torch.int64)).backward()
        # Of the mean of p, with dp/dlogit = p (1 - p) = 1/4.
        expected = torch.full((512, 512), 0.25 / 512**2)
        torch.testing.assert_close(logits.grad[0, 1], expected)
        torch.testing.assert_close(logits.grad[0, 0], -expected)

    def test_a_few_wrong_pixels_cost_little(self):
        mask = torch.zeros(1, 100, 100, dtype=torch.int64)
        pred = mask.clone()
        pred[0, 0, :5] = 1
        assert DICE(certain(pred), mask).item() == pytest.approx(5e-4)

    def test_gradient_stays_finite_where_the_branch_not_taken_is_undefined(self):
        logits = (1e4 * (2 * F.one_hot(self.EMPTY, 2).movedim(-1, 1) - 1)).float().requires_grad_()
        CrossEntropyDiceLoss()(logits, self.EMPTY).backward()
        assert torch.isfinite(logits.grad).all()

    def test_smp_would_not_notice(self):
        theirs = smp.losses.DiceLoss("multiclass", classes=[1])
        assert theirs(certain(1 - self.EMPTY), self.EMPTY) == 0


class TestBatching:
    def test_batch_is_the_mean_of_its_slices(self):
        # So that two processes with half of a batch each learn what one with all of it learns.
        logits, mask = batch(n=4)
        mask[0] = 0
        mask[1, 2:] = 0
        loss = CrossEntropyDiceLoss()
        singly = torch.stack([loss(logits[i : i + 1], mask[i : i + 1]) for i in range(4)]).mean()
        torch.testing.assert_close(loss(logits, mask), singly)

    def test_order_of_slices_does_not_matter(self):
        logits, mask = batch(n=3)
        torch.testing.assert_close(DICE(logits.flip(0), mask.flip(0)), DICE(logits, mask))


class TestNumbers:
    def test_gradient(self):
        logits, mask = batch(n=2, classes=3, height=3, width=4)
        mask[1] = 0
        loss = CrossEntropyDiceLoss()
        assert torch.autograd.gradcheck(
            lambda x: loss(x, mask), logits.double().requires_grad_(), fast_mode=False
        )

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_computed_in_float32(self, dtype):
        logits, mask = batch(height=64, width=96)
        half = logits.to(dtype)
        loss = CrossEntropyDiceLoss()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = loss(half, mask)
        assert result.dtype == torch.float32
        torch.testing.assert_close(result, loss(half.float(), mask), rtol=1e-6, atol=0)

    def test_float64_stays(self):
        logits, mask = batch()
        assert CE(logits.double(), mask).dtype == torch.float64

    def test_a_certain_mistake_has_a_finite_cost(self):
        mask = torch.ones(1, 4, 5, dtype=torch.int64)
        assert CrossEntropyDiceLoss()(certain(1 - mask), mask).item() == pytest.approx(61)

    def test_non_contiguous(self):
        logits, mask = batch()
        turned = DICE(logits.transpose(2, 3), mask.transpose(1, 2))
        torch.testing.assert_close(turned, DICE(logits, mask))
        last = logits.to(memory_format=torch.channels_last)
        torch.testing.assert_close(CE(last, mask), CE(logits, mask))

    def test_descending_finds_the_mask(self):
        _, mask = batch(n=2)
        mask[0] = 0
        logits = torch.zeros(2, 2, 6, 9, requires_grad=True)
        optimizer = torch.optim.Adam([logits], lr=0.3)
        for _ in range(40):
            optimizer.zero_grad()
            CrossEntropyDiceLoss()(logits, mask).backward()
            optimizer.step()
        assert torch.equal(logits.argmax(dim=1), mask)

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_works_in_deterministic_mode_without_waiting(self):
        logits, mask = (t.cuda() for t in batch())
        loss = CrossEntropyDiceLoss()
        loss(logits.requires_grad_(), mask).backward()
        torch.use_deterministic_algorithms(True)
        torch.cuda.set_sync_debug_mode("error")
        try:
            value = loss(logits, mask)
            value.backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
            torch.use_deterministic_algorithms(False)
        assert math.isfinite(value.item())


class TestRefusals:
    @pytest.mark.parametrize(
        ("logits", "mask"),
        [
            ((2, 2, 4, 5), (2, 5, 4)),
            ((2, 2, 4, 5), (2, 1, 4, 5)),
            ((2, 2, 4, 5), (1, 4, 5)),
            ((2, 1, 4, 5), (2, 4, 5)),
            ((2, 4, 5), (2, 4, 5)),
            ((0, 2, 4, 5), (0, 4, 5)),
        ],
    )
    def test_shapes(self, logits, mask):
        with pytest.raises(DataError, match="Give logits"):
            DICE(torch.zeros(logits), torch.zeros(mask, dtype=torch.int64))

    def test_dtypes(self):
        with pytest.raises(DataError, match=r"mask: torch\.float32"):
            CE(torch.zeros(1, 2, 3, 4), torch.zeros(1, 3, 4))
        with pytest.raises(DataError, match=r"logits: torch\.int64"):
            CE(torch.zeros(1, 2, 3, 4, dtype=torch.int64), torch.zeros(1, 3, 4, dtype=torch.int64))

    @pytest.mark.parametrize("value", [-100, -1, 2, 255])
    def test_classes_that_the_model_lacks(self, value):
        logits, mask = batch()
        mask[1, 2, 3] = value
        with pytest.raises(DataError, match=str(value)):
            DICE(logits, mask)

    @pytest.mark.parametrize("classes", [2, 4])
    @pytest.mark.parametrize("value", [-100, -1, 4, 255])
    def test_classes_that_the_model_lacks_make_nan_where_nobody_waits(
        self, monkeypatch, classes, value
    ):
        logits, mask = torch.zeros(2, classes, 6, 9), torch.ones(2, 6, 9, dtype=torch.int64)
        before = CrossEntropyDiceLoss()(logits, mask)
        monkeypatch.setattr("lungunet.models.losses._answers_at_once", lambda _: False)
        assert CrossEntropyDiceLoss()(logits, mask) == before
        mask[1, 2, 3] = value
        assert CrossEntropyDiceLoss()(logits, mask).isnan()

    @pytest.mark.parametrize("weights", [(0, 0), (-1, 1), (1, -1), (math.nan, 1), (math.inf, 1)])
    def test_weights(self, weights):
        with pytest.raises(ConfigError, match="ce_weight"):
            CrossEntropyDiceLoss(ce_weight=weights[0], dice_weight=weights[1])

    def test_shows_its_weights(self):
        loss = CrossEntropyDiceLoss(dice_weight=0.5)
        assert repr(loss) == "CrossEntropyDiceLoss(ce_weight=1.0, dice_weight=0.5)"


def by_pixel(logits, mask, term):
    """The mean over slices of the mean over their pixels of ``term(probabilities, class)``."""
    probs = torch.softmax(logits.double(), dim=1)
    n, _, height, width = probs.shape
    per_slice = []
    for i in range(n):
        pixels = [
            term(probs[i, :, y, x].tolist(), int(mask[i, y, x]))
            for y, x in itertools.product(range(height), range(width))
            if mask[i, y, x] != IGNORED
        ]
        per_slice.append(sum(pixels) / len(pixels) if pixels else 0.0)
    return sum(per_slice) / n


def by_region(logits, mask, term, weights=None):
    """The mean over slices and lung classes of ``term(probabilities, truth)`` of counted pixels."""
    probs = torch.softmax(logits.double(), dim=1).numpy()
    n, classes = probs.shape[:2]
    weights = weights or [1] * classes
    per_slice = []
    for i in range(n):
        counted = mask[i].numpy() != IGNORED
        per_class = []
        for c in range(1, classes):
            p, g = probs[i, c][counted], mask[i].numpy()[counted] == c
            loss = term(p, g) if g.any() else (p.mean() if p.size else 0.0)
            per_class.append(weights[c] * loss)
        per_slice.append(sum(per_class) / sum(weights[1:]))
    return sum(per_slice) / n


def tversky(p, g, alpha=0.3, beta=0.7):
    hit, extra, missed = (p * g).sum(), (p * ~g).sum(), ((1 - p) * g).sum()
    return 1 - hit / (hit + alpha * extra + beta * missed)


def lovasz(p, g):
    """Equation 8 as it stands: errors in falling order, times the steps of the set loss."""
    errors = np.abs(g - p)
    total, before, wrong = 0.0, 0.0, set()
    lung = set(np.flatnonzero(g).tolist())
    for i in sorted(range(len(p)), key=lambda i: -errors[i]):
        wrong.add(i)  # 1 - IoU of a prediction that is wrong in just these pixels
        pred = lung ^ wrong
        now = 1 - len(lung & pred) / len(lung | pred)
        total += errors[i] * (now - before)
        before = now
    return total


def far_by_double_loop(logits, mask, reach):
    """The integral of equation 4, the border of every pixel looked for among all others."""
    probs = torch.softmax(logits.double(), dim=1).numpy()
    n, classes, height, width = probs.shape
    places = list(itertools.product(range(height), range(width)))
    terms = []
    for i, c in itertools.product(range(n), range(1, classes)):
        truth = {at: int(mask[i][at]) for at in places if mask[i][at] != IGNORED}
        lung = [at for at in truth if truth[at] == c]
        rest = [at for at in truth if truth[at] != c]
        total = 0.0
        for at in truth:
            inside = truth[at] == c
            nearest = min((math.dist(at, to) for to in (rest if inside else lung)), default=1e9)
            depth = min(nearest - 1 if inside else nearest, reach)
            total += depth / reach * abs(probs[i, c][at] - inside)
        terms.append(total / len(truth) if truth else 0.0)
    return sum(terms) / len(terms)


def some_batch(classes, *, ignored=False):
    logits, mask = batch(n=4, classes=classes)
    mask[1] = 0  # a slice without lung
    mask[2][mask[2] == classes - 1] = 0  # a slice without one class
    if ignored:
        mask[0, 1:3, 2:7] = IGNORED
        mask[1, :, :4] = IGNORED
        mask[3] = IGNORED  # a slice of which nothing counts
    return logits, mask


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("classes", [2, 4])
class TestEquations:
    """Each loss against its paper's equation, pixel by pixel, with and without ignored pixels."""

    WEIGHTS = (0.5, 3.0, 1.5, 0.25)

    def check(self, name, classes, ignored, expected, **arguments):
        logits, mask = some_batch(classes, ignored=ignored)
        loss = build_loss(name, ignore_index=IGNORED if ignored else None, **arguments)
        value = loss(logits.double(), mask).item()
        assert value == pytest.approx(expected(logits, mask), rel=1e-6)

    def test_cross_entropy(self, classes, ignored):
        def expected(logits, mask):
            return by_pixel(logits, mask, lambda p, g: -math.log(p[g]))

        self.check("ce", classes, ignored, expected)

    def test_cross_entropy_with_weights(self, classes, ignored):
        def expected(logits, mask):
            return by_pixel(logits, mask, lambda p, g: -self.WEIGHTS[g] * math.log(p[g]))

        self.check("ce", classes, ignored, expected, class_weights=self.WEIGHTS[:classes])

    @pytest.mark.parametrize("gamma", [0, 1, 2, 3.5])
    def test_focal(self, classes, ignored, gamma):
        def expected(logits, mask):
            return by_pixel(
                logits, mask, lambda p, g: -self.WEIGHTS[g] * (1 - p[g]) ** gamma * math.log(p[g])
            )

        weights = self.WEIGHTS[:classes]
        self.check("focal", classes, ignored, expected, gamma=gamma, class_weights=weights)

    def test_dice(self, classes, ignored):
        def dice(p, g):
            return 1 - 2 * (p * g).sum() / (p.sum() + g.sum())

        self.check("dice", classes, ignored, lambda *batch: by_region(*batch, dice))

    def test_tversky_with_weights(self, classes, ignored):
        weights = self.WEIGHTS[:classes]

        def expected(logits, mask):
            return by_region(logits, mask, tversky, weights)

        self.check("tversky", classes, ignored, expected, class_weights=weights)

    def test_lovasz(self, classes, ignored):
        self.check("lovasz", classes, ignored, lambda *batch: by_region(*batch, lovasz))

    @pytest.mark.parametrize("reach", [1, 3, 100])
    def test_boundary(self, classes, ignored, reach):
        def expected(logits, mask):
            plain = build_loss("ce-dice", ignore_index=IGNORED if ignored else None)
            return plain(logits.double(), mask).item() + 2 * far_by_double_loop(logits, mask, reach)

        self.check("boundary", classes, ignored, expected, reach=reach, weight=2)


class TestSpecialCases:
    def test_tversky_of_equal_halves_is_dice(self):
        logits, mask = some_batch(3)
        halves = build_loss("tversky", alpha=0.5, beta=0.5)
        torch.testing.assert_close(halves(logits, mask), DICE(logits, mask))

    def test_tversky_of_ones_is_the_soft_iou(self):
        logits, mask = batch(n=1)
        p, g = logits.softmax(1)[0, 1], mask[0]
        iou = (p * g).sum() / (p.sum() + g.sum() - (p * g).sum())
        torch.testing.assert_close(build_loss("tversky", alpha=1, beta=1)(logits, mask), 1 - iou)

    @pytest.mark.parametrize("classes", [2, 3])
    def test_lovasz_of_a_certain_mask_is_one_minus_iou(self, classes):
        _, mask = batch(n=1, classes=classes)
        pred = mask.roll(2, dims=2)
        ious = []
        for c in range(1, classes):
            both, either = (pred == c) & (mask == c), (pred == c) | (mask == c)
            ious.append(both.sum().item() / either.sum().item())
        value = build_loss("lovasz")(certain(pred, classes), mask).item()
        assert value == pytest.approx(1 - sum(ious) / len(ious))

    def test_lovasz_is_that_of_smp_where_the_slice_holds_lung(self):
        logits, mask = batch(n=1)
        theirs = smp.losses.LovaszLoss("multiclass")(logits, mask)  # background too
        ours = build_loss("lovasz")
        both = (ours(logits, mask) + ours(logits.flip(1), 1 - mask)) / 2
        torch.testing.assert_close(both, theirs)

    def test_distance_is_that_of_scipy(self):
        from scipy import ndimage

        generator = torch.Generator().manual_seed(3)
        region = torch.rand(2, 1, 31, 45, generator=generator) > 0.99
        for reach in (1, 4, 60):
            distance = _distance(region, reach)
            for i in range(2):
                exact = ndimage.distance_transform_edt(~region[i, 0].numpy())
                np.testing.assert_allclose(distance[i, 0], exact.clip(max=reach), rtol=1e-6)

    def test_balanced_weights_leave_the_scale(self):
        logits, mask = torch.zeros(1, 2, 4, 5), torch.zeros(1, 4, 5, dtype=torch.int64)
        mask[0, 0] = 1  # 5 of 20
        even = build_loss("ce", class_weights=[20 / (2 * 15), 20 / (2 * 5)])
        torch.testing.assert_close(even(logits, mask), CE(logits, mask))


@pytest.mark.parametrize("name", NAMES)
class TestEveryLoss:
    """What holds for each of them, whatever it is."""

    @pytest.mark.parametrize("classes", [2, 3])
    def test_truth_costs_nothing_and_its_opposite_much(self, name, classes):
        _, mask = batch(classes=classes, height=12, width=16)
        mask[1] = 0
        loss = build_loss(name)
        assert loss(certain(mask, classes), mask).item() == pytest.approx(0, abs=1e-9)
        assert loss(certain((mask + 1) % classes, classes), mask).item() > 0.5

    def test_slice_without_lung(self, name):
        empty = torch.zeros(1, 5, 8, dtype=torch.int64)
        pred = empty.clone()
        pred[0, :2, :5] = 1  # 10 of 40 pixels, each 60 nats wrong
        a_quarter = {"ce": 15, "focal": 15, "ce-dice": 15.25, "boundary": 15.5}.get(name, 0.25)
        loss = build_loss(name)
        assert loss(certain(empty), empty).item() == pytest.approx(0, abs=1e-12)
        assert loss(certain(pred), empty).item() == pytest.approx(a_quarter)
        assert loss(certain(1 - empty), empty).item() == pytest.approx(4 * a_quarter)

    @pytest.mark.parametrize("classes", [2, 4])
    def test_batch_is_the_mean_of_its_slices(self, name, classes):
        logits, mask = some_batch(classes, ignored=True)
        loss = build_loss(name, ignore_index=IGNORED, class_weights=[1.0, 2.0, 3.0, 4.0][:classes])
        singly = torch.stack([loss(logits[i : i + 1], mask[i : i + 1]) for i in range(4)])
        torch.testing.assert_close(loss(logits, mask), singly.mean())
        assert singly[3] == 0  # nothing counts there

    @pytest.mark.parametrize("classes", [2, 4])
    def test_what_is_ignored_neither_costs_nor_pulls(self, name, classes):
        logits, mask = some_batch(classes, ignored=True)
        loss = build_loss(name, ignore_index=IGNORED)
        ignored = (mask == IGNORED).unsqueeze(1).expand_as(logits)
        other = torch.where(ignored, 50 * logits.flip(1), logits).requires_grad_()
        value = loss(other, mask)
        torch.testing.assert_close(value, loss(logits, mask))
        value.backward()
        assert torch.isfinite(other.grad).all()
        assert (other.grad[ignored] == 0).all()
        assert (other.grad[~ignored] != 0).any()

    @pytest.mark.parametrize("classes", [2, 3])
    def test_nothing_ignored_changes_nothing(self, name, classes):
        logits, mask = some_batch(classes)
        torch.testing.assert_close(
            build_loss(name, ignore_index=IGNORED)(logits, mask), build_loss(name)(logits, mask)
        )

    @pytest.mark.parametrize("classes", [2, 3])
    def test_gradient(self, name, classes):
        logits, mask = batch(n=3, classes=classes, height=3, width=4)
        mask[1] = 0
        mask[2, 1] = IGNORED
        loss = build_loss(name, ignore_index=IGNORED, class_weights=[1.0, 2.0, 0.5][:classes])
        assert torch.autograd.gradcheck(
            lambda x: loss(x, mask), logits.double().requires_grad_(), fast_mode=False
        )

    def test_certain_logits_have_a_finite_gradient(self, name):
        mask = torch.zeros(2, 5, 8, dtype=torch.int64)
        mask[1, :2] = 1
        for pred in (mask, 1 - mask):
            logits = (1e4 * (2 * F.one_hot(pred, 2).movedim(-1, 1) - 1)).float().requires_grad_()
            build_loss(name)(logits, mask).backward()
            assert torch.isfinite(logits.grad).all()

    def test_descending_finds_the_mask(self, name):
        _, mask = batch(n=2)
        mask[0] = 0
        start = 0.01 * torch.randn(2, 2, 6, 9, generator=torch.Generator().manual_seed(1))
        logits = start.requires_grad_()
        optimizer = torch.optim.Adam([logits], lr=0.3)
        for _ in range(60):
            optimizer.zero_grad()
            build_loss(name)(logits, mask).backward()
            optimizer.step()
        assert torch.equal(logits.argmax(dim=1), mask)

    @pytest.mark.parametrize("classes", [2, 3])
    def test_unknown_classes_make_nan_where_nobody_waits(self, monkeypatch, name, classes):
        logits, mask = torch.zeros(2, classes, 6, 9), torch.ones(2, 6, 9, dtype=torch.int64)
        monkeypatch.setattr("lungunet.models.losses._answers_at_once", lambda _: False)
        loss = build_loss(name, class_weights=[1.0] * classes)
        assert math.isfinite(loss(logits, mask))
        mask[1, 2, 3] = IGNORED
        assert loss(logits, mask).isnan()

    def test_a_value_that_is_no_class_is_refused_unless_it_is_ignored(self, name):
        logits, mask = batch()
        mask[1, 2, 3] = IGNORED
        with pytest.raises(DataError, match="255"):
            build_loss(name)(logits, mask)
        assert math.isfinite(build_loss(name, ignore_index=IGNORED)(logits, mask))

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    @pytest.mark.parametrize("classes", [2, 4])
    def test_works_on_a_gpu_in_deterministic_mode_without_waiting(self, name, classes):
        logits, mask = some_batch(classes, ignored=True)
        weights = [1.0, 2.0, 3.0, 4.0][:classes]
        there = logits.clone().requires_grad_()
        build_loss(name, ignore_index=IGNORED, class_weights=weights)(there, mask).backward()
        loss = build_loss(name, ignore_index=IGNORED, class_weights=weights).cuda()
        here, mask = logits.cuda().requires_grad_(), mask.cuda()
        loss(here, mask).backward()  # whatever is set up once
        here.grad = None
        torch.use_deterministic_algorithms(True)
        torch.cuda.set_sync_debug_mode("error")
        try:
            loss(here, mask).backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
            torch.use_deterministic_algorithms(False)
        torch.testing.assert_close(here.grad.cpu(), there.grad, rtol=1e-4, atol=1e-7)


class TestBuilding:
    def test_unknown_name(self):
        with pytest.raises(ConfigError, match=r"'tverski' is not one of ce-dice.*mean 'tversky'"):
            build_loss("tverski")

    def test_unknown_argument(self):
        with pytest.raises(ConfigError, match=r"loss focal: unknown argument 'alpha'.*takes gamma"):
            build_loss("focal", alpha=1)
        with pytest.raises(ConfigError, match="takes no arguments"):
            build_loss("ce", ce_weight=2)

    @pytest.mark.parametrize(
        ("name", "arguments"),
        [
            ("focal", {"gamma": 0.5}),
            ("focal", {"gamma": -1}),
            ("tversky", {"alpha": 0}),
            ("tversky", {"beta": math.inf}),
            ("tversky", {"ce_weight": -1}),
            ("lovasz", {"ce_weight": math.nan}),
            ("boundary", {"reach": 1.5}),
            ("boundary", {"reach": 0}),
            ("boundary", {"weight": -1}),
            ("ce", {"class_weights": [1.0, 0.0]}),
            ("ce", {"class_weights": [1.0]}),
            ("ce", {"class_weights": [1.0, math.inf]}),
        ],
    )
    def test_numbers_out_of_range(self, name, arguments):
        with pytest.raises(ConfigError, match=next(iter(arguments))):
            build_loss(name, **arguments)

    def test_weights_and_classes_must_agree(self):
        logits, mask = batch(classes=3)
        with pytest.raises(ConfigError, match="2 weights for 3 classes"):
            build_loss("dice", class_weights=[1, 2])(logits, mask)

    def test_a_class_cannot_be_ignored(self):
        with pytest.raises(ConfigError, match="ignore_index"):
            build_loss("dice", ignore_index=1)(*batch())

    def test_shows_what_it_was_made_with(self):
        loss = build_loss("tversky", class_weights=[1, 2], ignore_index=IGNORED)
        assert repr(loss) == (
            "TverskyLoss(alpha=0.3, beta=0.7, ce_weight=0.0, class_weights=[1.0, 2.0], "
            "ignore_index=255)"
        )
