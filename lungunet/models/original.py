"""The U-Net of Ronneberger, Fischer and Brox (2015), layer for layer.

Knows tensors only. ``build_unet("unet2015")`` builds it, as a yardstick for the pretrained
encoders.
"""

import copy
import math

import torch
from torch import Tensor, nn

from lungunet.errors import ConfigError, DataError

_N_POOLS = 4
_CELL = 16  # px of input under one px of the deepest level: fitting sizes lie this far apart
_MARGIN = 92  # px that the valid convolutions eat on each side
_SMALLEST = 188  # px, the smallest fitting input; its output is 4 px
# The mirrored border in front of the picture is a whole number of cells, 96 px and not 92, so that
# the max pools meet the same pixels as they do without a border.
_BORDER = math.ceil(_MARGIN / _CELL) * _CELL


class UNet2015(nn.Module):
    """The U-Net as published: 3 x 3 convolutions without padding, max pools, up-convolutions.

    Four pools lead from ``width`` to ``16 * width`` channels; on the way up each level is cropped
    and concatenated; a 1 x 1 convolution gives the logits. No batch norm, as in the paper. The
    paper states neither rate nor layer of the dropout "at the end of the contracting path": here
    it is 0.5 after the two deepest levels. Weights are drawn from N(0, 2 / N), N the number of
    inputs of a neuron.

    By default the picture is mirrored outwards first (the paper's overlap-tile strategy), so that
    logits come back at the size of the input, whatever it is. The mirror repeats the edge pixel
    (``numpy.pad`` mode "symmetric"): it is defined down to one pixel, and every pixel comes up
    equally often. Away from the border the logits equal those of ``valid=True``.

    Parameters
    ----------
    in_channels : channels of the input
    classes : channels of the logits
    valid : True returns only what the convolutions cover, 184 px less in each direction; then only
        sizes 188, 204, 220, ... fit (16 px apart, the paper's 572 among them)
    width : channels of the first level; 64 in the paper (31 million parameters)

    References
    ----------
    Ronneberger, Fischer, Brox 2015, U-Net: Convolutional Networks for Biomedical Image
    Segmentation, DOI 10.1007/978-3-319-24574-4_28, arXiv 1505.04597.

    Examples
    --------
    >>> model = UNet2015(1, 2, width=2).eval()
    >>> tuple(model(torch.zeros(1, 1, 65, 47)).shape)
    (1, 2, 65, 47)
    """

    def __init__(
        self, in_channels: int = 1, classes: int = 2, *, valid: bool = False, width: int = 64
    ) -> None:
        super().__init__()
        sizes = {"in_channels": in_channels, "classes": classes, "width": width}
        for name, value in sizes.items():
            if value < 1:
                raise ConfigError(f"{name} is {value}. It must be at least 1.", where="unet2015")
        self.valid = valid
        channels = [width * 2**level for level in range(_N_POOLS + 1)]
        self.down = nn.ModuleList(
            _two_convolutions(before, after)
            for before, after in zip([in_channels, *channels], channels, strict=False)
        )
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(0.5)
        deepest_first = list(zip(channels[:0:-1], channels[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in deepest_first)
        self.merge = nn.ModuleList(_two_convolutions(a, b) for a, b in deepest_first)
        self.head = nn.Conv2d(width, classes, 1)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Give logits.

        Parameters
        ----------
        x : (N, in_channels, H, W) float

        Returns
        -------
        (N, classes, H, W) float, or (N, classes, H - 184, W - 184) with ``valid``
        """
        height, width = self.output_size(x.shape[-2], x.shape[-1])
        if self.valid:
            return self._convolve(x)
        logits = self._convolve(_mirror_outwards(x))
        spare = _BORDER - _MARGIN
        return logits[..., spare : spare + height, spare : spare + width]

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Tell height and width of the logits for those of an input.

        With ``valid`` the logits belong to the centre of the input; ``crop_centre`` cuts a mask so.

        Examples
        --------
        >>> UNet2015(valid=True, width=1).output_size(572, 572)
        (388, 388)
        """
        if min(height, width) < 1:
            raise DataError(f"input: {height} x {width} px. Give a picture of at least 1 x 1.")
        if not self.valid:
            return height, width
        fit_height, fit_width = _next_fitting(height), _next_fitting(width)
        if (height, width) != (fit_height, fit_width):
            raise DataError(
                f"input: {height} x {width} px does not fit unpadded convolutions. The next size "
                f"that does is {fit_height} x {fit_width}; or build with valid=False, which pads."
            )
        return height - 2 * _MARGIN, width - 2 * _MARGIN

    def _convolve(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(self.pool(x) if level else x)
            if level >= _N_POOLS - 1:
                x = self.dropout(x)
            skips.append(x)
        skips.pop()  # the deepest level is what goes up
        for up, merge in zip(self.up, self.merge, strict=True):
            x = up(x)
            x = merge(torch.cat([crop_centre(skips.pop(), x.shape[-2], x.shape[-1]), x], dim=1))
        logits: Tensor = self.head(x)
        return logits


def padding(model: nn.Module) -> nn.Module:
    """Return a model that gives logits at the size of its input, of the same weights.

    That is the model itself, but for a :class:`UNet2015` with ``valid``: such a one stays as it is,
    and its double, without, comes back.
    """
    if not getattr(model, "valid", False):
        return model
    double = copy.copy(model)  # not deep: the layers are shared
    setattr(double, "valid", False)  # noqa: B010 - nn.Module types attributes as modules
    return double


def crop_centre(x: Tensor, height: int, width: int) -> Tensor:
    """Cut the central ``height`` x ``width`` out of the last two dimensions, as a view.

    Where the margins cannot be equal, one row or column more is cut at the bottom or right.

    Parameters
    ----------
    x : (..., H, W) with H >= height and W >= width

    Examples
    --------
    >>> crop_centre(torch.arange(5)[None], 1, 3)
    tensor([[1, 2, 3]])
    """
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    if min(top, left) < 0:
        raise DataError(
            f"x: {x.shape[-2]} x {x.shape[-1]} px is smaller than {height} x {width}. Crop to less."
        )
    return x[..., top : top + height, left : left + width]


def _two_convolutions(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3),
        nn.ReLU(inplace=True),
        nn.Conv2d(after, after, 3),
        nn.ReLU(inplace=True),
    )


def _initialise(module: nn.Module) -> None:
    if not isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        return
    # Inputs of one output pixel. An up-convolution whose stride is its kernel takes one tap of each
    # input channel; torch's own fan_in would count four taps of each output channel there.
    taps = module.kernel_size[0] * module.kernel_size[1] if isinstance(module, nn.Conv2d) else 1
    nn.init.normal_(module.weight, std=math.sqrt(2 / (taps * module.in_channels)))
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def _next_fitting(size: int) -> int:
    return _SMALLEST + max(0, math.ceil((size - _SMALLEST) / _CELL)) * _CELL


def _mirror_outwards(x: Tensor) -> Tensor:
    for dim in (-2, -1):
        size = x.shape[dim]
        # Logits must reach from px 4 (see _BORDER) to px 4 + size.
        whole = _next_fitting(size + _BORDER + _MARGIN)
        place = torch.arange(-_BORDER, whole - _BORDER, device=x.device).remainder(2 * size)
        x = x.index_select(dim, torch.minimum(place, 2 * size - 1 - place))
    return x
