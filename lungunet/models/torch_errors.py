"""What torch's errors mean to the user: no memory left, a GPU that does not work, a lost worker."""

import textwrap
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from lungunet.errors import ConfigError, LungUNetError

# Without a type of its own: the CPU allocator, CUDA's libraries, a worker that the system killed.
_NO_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "STATUS_ALLOC_FAILED",
    "unable to find an engine to execute this computation",  # cuDNN without room to work in
    "killed by signal: Kill",
)
# Processes that read ahead hand batches over in shared memory. Which of these comes where there is
# too little of it, or where the system ended one, is a matter of timing.
_LOST_WORKER = (
    "shared memory",
    "exited unexpectedly",
    "killed by signal",
    "unable to write to file </torch",
    "unable to mmap",
    "torch_shm_manager",
    "received 0 items of ancdata",
    "Too many open files",
)
_IN_WORKER = "in DataLoader worker process"
_LONG = 160  # letters of a foreign error that are shown, whole words
_NO_GPU = ("CUDA", "CUBLAS", "cuDNN", "CUDNN", "NCCL")


@contextmanager
def explained(needs: str, lower: str) -> Iterator[None]:
    """Turn running out of memory, and a GPU that fails, into advice.

    Parameters
    ----------
    needs : what there was no memory for, such as "8 slices at 512x512"
    lower : how to need less, a sentence
    """
    try:
        yield
    except LungUNetError as err:
        told = _told_by_worker(err)
        if told is None:
            raise
        raise type(err)(told) from None
    except (MemoryError, RuntimeError, OSError, EOFError) as err:
        said = f"({first_line(err)})"
        if is_out_of_memory(err):
            raise ConfigError(f"out of memory with {needs} {said}. {lower}") from err
        if _is_of_worker(err):
            raise ConfigError(
                f"a process that reads ahead was lost, or had no room {said}. Mostly /dev/shm is "
                "too small (a container takes --shm-size=2g) or memory ran out. Lower workers; "
                "workers=0 reads in this process."
            ) from err
        if is_of_the_gpu(err):
            raise ConfigError(
                f"the GPU failed {said}. 'lungunet doctor' tests it. Use device='cpu', or install "
                "a torch that is built for this GPU and its driver."
            ) from err
        raise


def _told_by_worker(err: LungUNetError) -> str | None:
    """Return what an error said in a worker: torch makes a whole traceback its message."""
    text = str(err)
    if _IN_WORKER not in text.partition("\n")[0]:
        return None
    return text.rpartition(f"{type(err).__name__}: ")[2].strip()


def _is_of_worker(err: Exception) -> bool:
    """Return whether a process that reads ahead failed, and not the file that it read."""
    *_, (frame, _) = traceback.walk_tb(err.__traceback__)
    between = "multiprocessing" in Path(frame.f_code.co_filename).parts  # pipes, locks
    lost = isinstance(err, OSError | EOFError) and between
    return lost or any(text in str(err) for text in _LOST_WORKER)


def is_out_of_memory(err: Exception) -> bool:
    """Return whether memory ran out, of the GPU or of the computer."""
    known = isinstance(err, torch.OutOfMemoryError | MemoryError)
    return known or any(text in str(err) for text in _NO_MEMORY)


def is_of_the_gpu(err: Exception) -> bool:
    """Return whether CUDA or one of its libraries failed, whatever it was asked to do."""
    return any(text in first_line(err) for text in _NO_GPU)


def first_line(err: Exception) -> str:
    """Return how an error of torch begins, which goes on for pages; its type where it is mute."""
    lines = str(err).strip().splitlines()
    if lines and _IN_WORKER in lines[0]:  # the error itself stands at the end of a traceback
        lines = lines[-1:]
    line = next(iter(lines), type(err).__name__)
    return textwrap.shorten(line.rstrip("."), _LONG, placeholder=" [...]")
