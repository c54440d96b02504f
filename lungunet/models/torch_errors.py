"""What torch's errors mean to the user: no memory left, or a GPU that does not work."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lungunet.errors import ConfigError

# Without a type of its own: the CPU allocator, CUDA's libraries, a worker that the system killed.
_NO_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "STATUS_ALLOC_FAILED",
    "unable to find an engine to execute this computation",  # cuDNN without room to work in
    "killed by signal: Kill",
)
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
    except (MemoryError, RuntimeError) as err:
        said = f"({first_line(err)})"
        if is_out_of_memory(err):
            raise ConfigError(f"out of memory with {needs} {said}. {lower}") from err
        if is_of_the_gpu(err):
            raise ConfigError(
                f"the GPU failed {said}. 'lungunet doctor' tests it. Use --device cpu, or install "
                "a torch that is built for this GPU and its driver."
            ) from err
        raise


def is_out_of_memory(err: Exception) -> bool:
    """Return whether memory ran out, of the GPU or of the computer."""
    known = isinstance(err, torch.OutOfMemoryError | MemoryError)
    return known or any(text in str(err) for text in _NO_MEMORY)


def is_of_the_gpu(err: Exception) -> bool:
    """Return whether CUDA or one of its libraries failed, whatever it was asked to do."""
    return any(text in first_line(err) for text in _NO_GPU)


def first_line(err: Exception) -> str:
    """Return how an error of torch begins, which goes on for pages; its type where it is mute."""
    return next(iter(str(err).splitlines()), type(err).__name__)[:120].rstrip(".")
