"""Forward and backward passes of a network as CUDA graphs: recorded once, then started whole.

A step of a small network is thousands of kernels, and starting them one by one takes the processor
longer than the GPU needs to run them. Knows tensors alone.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from lungunet.errors import ConfigError
from lungunet.models.original import UNet2015
from lungunet.models.torch_errors import first_line, is_out_of_memory
from lungunet.process_wide import ignored_warnings


def can_be_recorded(model: nn.Module) -> bool:
    """Whether each pass of a network runs the same kernels, as a recorded one does.

    Those of smp and :class:`UNet2015` do. A network of anyone else may branch, or draw numbers in
    Python; and what hooks do would be left out.
    """
    kind = type(model)
    known = kind is UNet2015 or kind.__module__.split(".")[0] == "segmentation_models_pytorch"
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return known and not any(getattr(m, each) for m in model.modules() for each in hooks)


class Recorded(nn.Module):
    """A network on a GPU, to be trained, whose passes over batches of one shape are CUDA graphs.

    Recorded at the first batch; a ConfigError says where that fails. Batches of another shape are
    computed as ever, and so is a network whose pass waits for the device. The weights stay those of
    the network, where they lie.

    Parameters
    ----------
    net : one that :func:`can_be_recorded`
    adds_up : gradients of several passes are added up before a step
    """

    def __init__(self, net: nn.Module, *, adds_up: bool) -> None:
        super().__init__()
        self.net, self._adds_up = net, adds_up
        self._shape: torch.Size | None = None
        self._passes: _Passes | None = None
        self._state = _state_of(net)

    @property
    def is_stale(self) -> bool:
        """Whether weights were moved, frozen or set to predict since."""
        return self._state != _state_of(self.net)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits, which the next call overwrites."""
        if self._shape is None:
            self._shape = image.shape
            self._state = _state_of(self.net)
            try:
                self._passes = _record(self.net, image, self._adds_up)
            except RuntimeError as err:
                if is_out_of_memory(err):
                    raise
                raise ConfigError(
                    f"its passes cannot be recorded as CUDA graphs ({first_line(err)}). "
                    "Train with cuda_graphs=False.",
                    where=type(self.net).__name__,
                ) from err
        if self._passes is None or image.shape != self._shape:
            return self.net(image)  # type: ignore[no-any-return]
        logits: torch.Tensor = _Replay.apply(self._passes, image, *self._passes.parameters)
        return logits


class _Passes:
    """Both graphs of a network, with the tensors that they read and write."""

    logits: torch.Tensor

    def __init__(
        self, net: nn.Module, image: torch.Tensor, stream: torch.cuda.Stream, adds_up: bool
    ) -> None:
        self.image, self.adds_up = image, adds_up
        self.parameters = [p for p in net.parameters() if p.requires_grad]
        self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        # Other threads may use the GPU meanwhile: the one that pins batches does.
        settings: dict[str, Any] = {
            "pool": torch.cuda.graph_pool_handle(),
            "stream": stream,
            "capture_error_mode": "thread_local",
        }
        with torch.cuda.graph(self.forward, **settings):
            logits = net(image)
        self.of_logits = torch.empty_like(logits)
        with torch.cuda.graph(self.backward, **settings):
            self.gradients = torch.autograd.grad(
                logits, self.parameters, self.of_logits, allow_unused=True
            )
        self.logits = logits.detach()


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, passes: _Passes, image: torch.Tensor, *_: nn.Parameter) -> torch.Tensor:
        ctx.passes = passes
        passes.image.copy_(image)
        passes.forward.replay()
        return passes.logits.detach()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_logits: torch.Tensor) -> Any:
        passes: _Passes = ctx.passes
        passes.of_logits.copy_(of_logits)
        passes.backward.replay()
        # What is added up must not lie where the next pass writes.
        own = torch.Tensor.clone if passes.adds_up else torch.Tensor.detach
        return (None, None, *(None if each is None else own(each) for each in passes.gradients))


def _record(net: nn.Module, image: torch.Tensor, adds_up: bool) -> _Passes | None:
    """Return the passes, with weights, statistics and generators left as they are.

    None where a pass waits for the device, which no graph can, or there is nothing to train.
    """
    device, image = image.device, image.clone()
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    before = [buffer.clone() for buffer in net.buffers()]
    with ExitStack() as stack:
        stack.enter_context(torch.cuda.device(device))
        stack.enter_context(torch.random.fork_rng([device]))
        # A cast of a weight that is kept for later passes would be a cast of the first weight.
        dtype, enabled = torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda")
        stack.enter_context(torch.autocast("cuda", dtype, enabled, cache_enabled=False))
        try:
            return _Passes(net, image, stream, adds_up) if _tried(net, image, stream) else None
        finally:
            for buffer, value in zip(net.buffers(), before, strict=True):
                buffer.copy_(value)


def _tried(net: nn.Module, image: torch.Tensor, stream: torch.cuda.Stream) -> bool:
    """Run both passes, which warms up; tell whether they wait for nothing."""
    parameters = [p for p in net.parameters() if p.requires_grad]
    if not parameters:
        return False
    usual = torch.cuda.current_stream(image.device)
    stream.wait_stream(usual)
    try:
        with torch.cuda.stream(stream):
            for mode in ("default", "error"):  # the first may wait: libraries start up
                with _waiting(mode):
                    logits = net(image)
                    of_logits = torch.ones_like(logits)
                    torch.autograd.grad(logits, parameters, of_logits, allow_unused=True)
    except RuntimeError as err:
        if is_out_of_memory(err):
            raise
        return False  # as it is, it runs, or says what is wrong
    finally:
        usual.wait_stream(stream)
    return True


@contextmanager
def _waiting(mode: str) -> Iterator[None]:
    """Let torch do ``mode`` where the processor waits for the device."""
    before = torch.cuda.get_sync_debug_mode()
    with ignored_warnings():  # that it is new, and does not see all
        torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _state_of(net: nn.Module) -> tuple[Any, ...]:
    """Return all that a recording holds on to."""
    weights = ((p.data_ptr(), p.requires_grad) for p in net.parameters())
    statistics = (buffer.data_ptr() for buffer in net.buffers())
    return (*weights, *statistics, *(module.training for module in net.modules()))
