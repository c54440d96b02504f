from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from lungunet.errors import ConfigError, DataError
from lungunet.models.losses import CrossEntropyDiceLoss
from lungunet.models.original import (
    _BORDER,
    _MARGIN,
    UNet2015,
    _mirror_outwards,
    _next_fitting,
    crop_centre,
)


def picture(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def net(width=2, seed=0, **arguments):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return UNet2015(width=width, **arguments).eval()


def size_by_layers(size):
    """Follow one dimension through the layers of the paper; None where a pool would not divide."""
    skips = []
    for _ in range(4):
        size -= 4
        skips.append(size)
        if size < 2 or size % 2:
            return None
        size //= 2
    size -= 4
    for _ in range(4):
        size = 2 * size - 4
        if size < 1:
            return None
    return size


class TestValid:
    def test_the_sizes_of_the_paper(self):
        with torch.inference_mode():
            logits = net(width=1, valid=True)(torch.zeros(1, 1, 572, 572))
        assert logits.shape == (1, 2, 388, 388)

    def test_lopsided(self):
        model = net(valid=True)
        with torch.inference_mode():
            logits = model(torch.zeros(3, 1, 188, 220))
        assert logits.shape == (3, 2, 4, 36)
        assert model.output_size(188, 220) == (4, 36)

    def test_output_size_for_every_size(self):
        model = net(width=1, valid=True)
        for size in range(1, 600):
            expected = size_by_layers(size)
            if expected is None:
                with pytest.raises(DataError, match="does not fit"):
                    model.output_size(size, 572)
            else:
                assert model.output_size(size, 572) == (expected, 388)

    def test_the_error_computes_the_next_size(self):
        model = net(width=1, valid=True)
        with pytest.raises(DataError, match=r"500 x 570 px.* 508 x 572;"):
            model(torch.zeros(1, 1, 500, 570))
        with pytest.raises(DataError, match="188 x 188"):
            model(torch.zeros(1, 1, 3, 100))

    def test_four_pixels_of_output_see_the_188_of_the_smallest_input(self):
        model = net(valid=True)
        x = picture(1, 1, 220, 188).requires_grad_()
        model(x)[0, :, 16:20].sum().backward()
        rows = x.grad[0, 0].abs().sum(dim=1).nonzero().flatten()
        assert (rows.min(), rows.max()) == (16, 16 + 188 - 1)


class TestAlignment:
    """Without what comes up from below a pixel of output sees 9 x 9 px: four convolutions."""

    def seen(self, model, x, row, column):
        nn.init.zeros_(model.up[-1].weight)
        x.requires_grad_()
        model(x)[0, 1, row, column].backward()
        rows, columns = x.grad[0, 0].nonzero().T
        return rows.min(), rows.max(), columns.min(), columns.max()

    def test_valid_output_lies_in_the_centre(self):
        seen = self.seen(net(width=8, valid=True), picture(1, 1, 204, 220), 3, 10)
        row, column = 3 + _MARGIN, 10 + _MARGIN
        assert seen == (row - 4, row + 4, column - 4, column + 4)

    def test_padded_output_lies_on_the_input(self):
        seen = self.seen(net(width=8), picture(1, 1, 65, 47), 30, 20)
        assert seen == (26, 34, 16, 24)


class TestPadded:
    @pytest.mark.parametrize(
        "shape", [(1, 1, 1, 1), (2, 1, 1, 7), (1, 1, 65, 47), (3, 1, 64, 96), (1, 1, 191, 130)]
    )
    def test_keeps_the_size(self, shape):
        model = net()
        with torch.inference_mode():
            logits = model(picture(*shape))
        assert logits.shape == (shape[0], 2, *shape[2:])
        assert model.output_size(*shape[2:]) == shape[2:]
        assert torch.isfinite(logits).all()

    @pytest.mark.parametrize(("height", "width"), [(1, 2), (3, 5), (47, 65), (96, 200)])
    def test_mirror_is_that_of_numpy(self, height, width):
        x = picture(2, 3, height, width)
        mirrored = _mirror_outwards(x)
        after = [mirrored.shape[2 + i] - (height, width)[i] - _BORDER for i in range(2)]
        pads = ((0, 0), (0, 0), (_BORDER, after[0]), (_BORDER, after[1]))
        assert np.array_equal(mirrored.numpy(), np.pad(x.numpy(), pads, mode="symmetric"))

    def test_mirror_is_no_larger_than_needed(self):
        for size in range(1, 130):
            whole = _mirror_outwards(torch.zeros(1, 1, size, 1)).shape[-2]
            covered = size_by_layers(whole) - (_BORDER - _MARGIN)
            assert covered >= size > covered - 16

    @pytest.mark.parametrize("shape", [(220, 236), (252, 188)])
    def test_centre_is_that_of_valid(self, shape):
        padded, valid = net(), net(valid=True)
        valid.load_state_dict(padded.state_dict())
        x = picture(2, 1, *shape)
        with torch.inference_mode():
            expected = valid(x)
            centre = crop_centre(padded(x), *valid.output_size(*shape))
        torch.testing.assert_close(centre, expected)
        assert expected.std() > 0

    def test_is_deterministic_in_eval(self):
        model = net()
        x = picture(1, 1, 33, 20)
        with torch.no_grad():
            assert torch.equal(model(x), model(x))

    def test_drops_out_in_training(self):
        model = net(width=4).train()
        x = picture(1, 1, 33, 20)
        with torch.no_grad():
            assert not torch.equal(model(x), model(x))

    def test_empty_picture(self):
        with pytest.raises(DataError, match="0 x 5"):
            net()(torch.zeros(1, 1, 0, 5))


class TestLayers:
    def test_parameters_of_the_paper(self):
        def convolution(before, after, kernel):
            return before * after * kernel**2 + after

        channels = [64, 128, 256, 512, 1024]
        expected = convolution(64, 2, 1)
        for before, after in zip([1, *channels], channels, strict=False):
            expected += convolution(before, after, 3) + convolution(after, after, 3)
        for low, high in pairwise(channels):
            expected += convolution(high, low, 2)
            expected += convolution(high, low, 3) + convolution(low, low, 3)
        with torch.device("meta"):
            model = UNet2015()
        n_parameters = sum(p.numel() for p in model.parameters())
        assert n_parameters == expected
        assert round(n_parameters / 1e6) == 31

    def test_23_convolutions(self):
        # "In total the network has 23 convolutional layers."
        layers = [m for m in net().modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
        assert len(layers) == 23

    def test_spread_of_the_weights(self):
        model = net(width=16)
        third = model.down[2][0]  # 3 x 3 over 32 channels
        assert third.weight.std().item() == pytest.approx((2 / (9 * 32)) ** 0.5, rel=0.05)
        up = model.up[0]  # one tap of each of 256 channels
        assert up.weight.std().item() == pytest.approx((2 / 256) ** 0.5, rel=0.05)
        assert all((p == 0).all() for name, p in model.named_parameters() if name.endswith("bias"))

    def test_signal_keeps_its_size_through_the_layers(self):
        with torch.inference_mode():
            logits = net(width=16)(picture(1, 1, 40, 60))
        assert 0.1 < logits.std() < 10

    @pytest.mark.parametrize("name", ["in_channels", "classes", "width"])
    def test_refuses_nothing(self, name):
        with pytest.raises(ConfigError, match=f"{name} is 0"):
            UNet2015(**{name: 0})


def test_learns_a_square():
    model = net(width=8).train()
    mask = torch.zeros(1, 16, 12, dtype=torch.int64)
    mask[0, 4:12, 3:9] = 1
    x = mask.unsqueeze(1) + 0.1 * picture(1, 1, 16, 12)
    loss, optimizer = CrossEntropyDiceLoss(), torch.optim.Adam(model.parameters(), lr=3e-3)
    values = []
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        for _ in range(10):
            optimizer.zero_grad()
            values.append(loss(model(x), mask))
            values[-1].backward()
            optimizer.step()
    assert values[-1] < 0.5 * values[0]


class TestCropCentre:
    def test_worked_by_hand(self):
        x = torch.arange(20).reshape(4, 5)
        assert crop_centre(x, 2, 3).tolist() == [[6, 7, 8], [11, 12, 13]]
        assert crop_centre(x, 1, 2).tolist() == [[6, 7]]  # one more cut at the bottom and right

    def test_whole(self):
        x = torch.arange(6).reshape(1, 2, 3)
        assert torch.equal(crop_centre(x, 2, 3), x)

    def test_refuses_to_grow(self):
        with pytest.raises(DataError, match="2 x 3 px is smaller than 2 x 4"):
            crop_centre(torch.zeros(2, 3), 2, 4)


def test_fitting_sizes():
    assert [_next_fitting(size) for size in (1, 188, 189, 572, 573)] == [188, 188, 204, 572, 588]
