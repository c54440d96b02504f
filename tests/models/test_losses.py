import math

import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F

from lungunet.errors import ConfigError, DataError
from lungunet.models.losses import CrossEntropyDiceLoss

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

    @pytest.mark.parametrize("weights", [(0, 0), (-1, 1), (1, -1), (math.nan, 1)])
    def test_weights(self, weights):
        with pytest.raises(ConfigError, match="ce_weight"):
            CrossEntropyDiceLoss(ce_weight=weights[0], dice_weight=weights[1])

    def test_shows_its_weights(self):
        loss = CrossEntropyDiceLoss(dice_weight=0.5)
        assert repr(loss) == "CrossEntropyDiceLoss(ce_weight=1.0, dice_weight=0.5)"
