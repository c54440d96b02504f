"""What is made of torch's errors."""

import pytest
import torch

import lungunet
from lungunet.errors import ConfigError, LabelError, LungUNetError
from lungunet.models.builtin import BUILTIN
from lungunet.models.device import share_batch_norm
from lungunet.models.torch_errors import explained, first_line

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


NO_WORKER = [
    RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left (28)"),
    RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"),
    RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that"),
    RuntimeError(
        "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most recent call "
        "last):\n  File ...\nRuntimeError: unable to write to file </torch_1>: No space left"
    ),
    RuntimeError("received 0 items of ancdata"),
]


ASKED = [
    lambda: lungunet.list_encoders("resnet18"),
    lambda: lungunet.list_encoders("tu-resnet18"),
    lambda: lungunet.build_model("unet", "resnet18"),
    lambda: lungunet.build_model("unet", "tu-resnet18"),
    lambda: lungunet.build_model("fpn", "resnet18", decoder_dropout=0.1),
    lambda: lungunet.build_model("dpt", "tu-vit_tiny_patch16_224"),
    lambda: lungunet.load_model(BUILTIN["lungs"]),
    lambda: share_batch_norm(torch.nn.Conv2d(1, 1, 1)),
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
    with pytest.raises(ConfigError, match=r"^the GPU failed \([^\n]+\)\. .*Use device='cpu'"):
        explain(error)


@pytest.mark.parametrize("error", NO_WORKER)
def test_a_lost_worker(error: Exception) -> None:
    with pytest.raises(
        ConfigError,
        match=r"^a process that reads ahead was lost, or had no room \([^\n]+\)\. .*dev/shm",
    ) as caught:
        explain(error)
    assert "Caught" not in str(caught.value)
    assert "workers=0" in str(caught.value)


def test_no_room_for_the_locks_of_workers() -> None:
    words = "raise OSError(28, 'No space left on device')"
    of_locks = compile(words, "/lib/multiprocessing/synchronize.py", "exec")
    with pytest.raises(ConfigError, match="was lost, or had no room"), explained("8", "Fewer."):
        exec(of_locks)
    with pytest.raises(OSError, match="No space"), explained("8", "Fewer."):
        exec(compile(words, "/lib/of_a_disk.py", "exec"))


def test_what_a_worker_says_of_a_file_is_said_without_its_traceback() -> None:
    """Torch builds the error anew, with a traceback for its message."""
    inner = "a.png: mask value 9\n  on two lines."
    text = "Caught LabelError in DataLoader worker process 0.\nOriginal Traceback (most recent"
    text += f" call last):\n  File ...\nlungunet.errors.LabelError: {inner}\n"
    with pytest.raises(LabelError) as caught:
        explain(LabelError(text))
    assert str(caught.value) == inner
    plain = LabelError("a.png: mask value 9")
    with pytest.raises(LabelError) as caught:
        explain(plain)
    assert caught.value is plain


@pytest.mark.parametrize("error", [RuntimeError("a bug\nwith CUDA below"), ValueError("CUDA")])
def test_all_others_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        explain(error)
    assert raised.value is error


def test_a_long_error_ends_with_a_whole_word() -> None:
    said = first_line(RuntimeError("expected input to have 3 channels, but got " + "word " * 80))
    assert len(said) < 170
    assert said.endswith(" word [...]")
    assert first_line(RuntimeError("short.")) == "short"
    assert first_line(MemoryError()) == "MemoryError"


@pytest.mark.parametrize("ask", ASKED)
def test_packages_that_do_not_fit_are_named_with_what_tells_more(unfit_torchvision, ask) -> None:
    for _ in range(2):  # what failed once is tried again
        with pytest.raises(LungUNetError) as caught:
            ask()
        assert str(caught.value) == (
            "the encoders do not load (RuntimeError: operator torchvision::nms does not exist). "
            "Mostly torchvision was built for another torch. 'lungunet doctor' says how to mend it."
        )


def test_what_needs_no_encoder_works_without(unfit_torchvision) -> None:
    assert lungunet.build_model("unet2015") is not None
