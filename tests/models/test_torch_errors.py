"""What is made of torch's errors."""

import pytest
import torch

from lungunet.errors import ConfigError
from lungunet.models.torch_errors import explained

NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore."),
    MemoryError(),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
    RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
]
NO_GPU = [
    RuntimeError("CUDA error: no kernel image is available for execution on the device\nMore."),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
    RuntimeError("NCCL Error 2: unhandled system error"),
]


def explain(error: Exception) -> None:
    with explained("8 slices", "Take fewer."):
        raise error


@pytest.mark.parametrize("error", NO_MEMORY)
def test_no_memory(error: Exception) -> None:
    with pytest.raises(
        ConfigError, match=r"^out of memory with 8 slices \([^\n]+\)\. Take fewer\.$"
    ):
        explain(error)


@pytest.mark.parametrize("error", NO_GPU)
def test_a_gpu_that_fails(error: Exception) -> None:
    with pytest.raises(ConfigError, match=r"^the GPU failed \([^\n]+\)\. .*Use --device cpu"):
        explain(error)


@pytest.mark.parametrize("error", [RuntimeError("a bug\nwith CUDA below"), ValueError("CUDA")])
def test_all_others_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        explain(error)
    assert raised.value is error
