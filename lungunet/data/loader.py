"""In which order samples are read, by whom, and in how many processes.

Order and augmentation depend on seed and epoch alone. Knows the dataset's length, not its files.
"""

import os
import signal
from collections.abc import Iterator

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from lungunet.data.dataset import EightBitSamples, LungCTDataset, check_dataset
from lungunet.data.kinds import check_whole
from lungunet.errors import ConfigError


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index), in an order that depends on (seed, epoch) alone.

    Each pass counts as one epoch; :meth:`set_epoch` says which one comes next.

    Parameters
    ----------
    length : number of samples
    shuffle : False keeps the order of the dataset
    keep : samples of each pass; None keeps all, fewer leave the end of the order out
    batch_size : of all ranks together; matters with several ranks alone
    rank, ranks : this process and how many share the work: each batch is divided among them
    """

    def __init__(
        self,
        length: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        keep: int | None = None,
        batch_size: int = 1,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.length = length
        self.seed = seed
        self.shuffle = shuffle
        self.keep = length if keep is None else keep
        self.batch_size = batch_size
        self.rank = rank
        self.ranks = ranks
        self.epoch = 0
        self._first_batch = 0

    def set_epoch(self, epoch: int, *, first_batch: int = 0) -> None:
        """Make the next pass that of ``epoch``, without the batches before ``first_batch``."""
        self.epoch = epoch
        self._first_batch = first_batch

    def __len__(self) -> int:
        """Count the samples of a whole pass that fall to this rank."""
        whole, rest = divmod(self.keep, self.batch_size)
        return whole * self._share(self.batch_size) + self._share(rest)

    def _share(self, samples: int) -> int:
        """Count what falls to this rank of so many samples; the first ranks take the rest."""
        each, rest = divmod(samples, self.ranks)
        return each + (self.rank < rest)

    def order(self, epoch: int) -> np.ndarray:
        """Return the indices of one pass over all ranks, (keep,) int64."""
        order = np.arange(self.length)
        if self.shuffle:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.length)
        return order[: self.keep]

    def batch_length(self, number: int) -> int:
        """Count the samples of one batch of all ranks together."""
        return min(self.batch_size, self.keep - number * self.batch_size)

    def batch(self, epoch: int, number: int) -> np.ndarray:
        """Return the indices of one batch of all ranks together, (n,) int64."""
        start = number * self.batch_size
        return self.order(epoch)[start : start + self.batch_size]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        first, self._first_batch = self._first_batch, 0
        order = self.order(epoch)[first * self.batch_size :]
        return ((epoch, int(index)) for index in self._mine(order))

    def _mine(self, order: np.ndarray) -> Iterator[int]:
        """Yield this rank's part of each batch, as neighbours."""
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            yield from np.array_split(batch, self.ranks)[self.rank]


def make_loader(
    dataset: LungCTDataset,
    *,
    batch_size: int,
    shuffle: bool = False,
    seed: int = 0,
    workers: int = 0,
    pin_memory: bool | None = None,
    rank: int = 0,
    ranks: int = 1,
    eight_bit: bool = False,
) -> DataLoader[tuple[torch.Tensor, torch.Tensor]]:
    """Return a DataLoader whose batches depend on seed and epoch alone, not on ``workers``.

    So it is with transforms of Albumentations, see :meth:`LungCTDataset.__getitem__`.

    Make it once: each pass is the next epoch, with an order and an augmentation of its own, and a
    new loader begins at the first one. ``loader.sampler.set_epoch`` names another.

    Parameters
    ----------
    batch_size : of all ranks together
    shuffle : True for training: also drops a last batch that would leave a rank with a single
        sample, which batch norm cannot train on
    workers : processes that read ahead; 0 reads in this one
    pin_memory : None means: when CUDA is there
    rank, ranks : this process and how many train together
    eight_bit : batches of grey and classes, (N, size, size) uint8 each, to be made float32 by
        :meth:`InputContract.normalise_batch` on the device: a sixth of the bytes to move

    Raises
    ------
    ConfigError
        When a number is out of range, the ranks cannot share a batch evenly, or ``eight_bit`` is
        asked of a subclass with a ``__getitem__`` of its own.
    """
    check_dataset("dataset", dataset)
    batch_size = check_whole("batch_size", batch_size, least=1)
    workers, seed = check_whole("workers", workers), check_whole("seed", seed)
    if batch_size % ranks:
        raise ConfigError(
            f"is that of all {ranks} processes together and must divide "
            f"by {ranks}. Choose {batch_size // ranks * ranks or ranks}.",
            where=f"batch_size {batch_size}",
        )
    rest = len(dataset) % batch_size
    drops = shuffle and 0 < rest < 2 * ranks and len(dataset) > batch_size and batch_size > 1
    sampler = EpochSampler(
        len(dataset),
        seed=seed,
        shuffle=shuffle,
        keep=len(dataset) - rest if drops else None,
        batch_size=batch_size,
        rank=rank,
        ranks=ranks,
    )
    return DataLoader(
        EightBitSamples(dataset) if eight_bit else dataset,
        batch_size=batch_size // ranks,
        sampler=sampler,
        num_workers=workers,
        pin_memory=torch.cuda.is_available() if pin_memory is None else pin_memory,
        persistent_workers=workers > 0,
        worker_init_fn=_start_worker,
        # A generator of its own: starting an iterator would otherwise draw from the global one,
        # and a resumed run would see other dropout than an uninterrupted one.
        generator=torch.Generator().manual_seed(seed),
    )


def _start_worker(worker: int) -> None:
    cv2.setNumThreads(0)  # one worker is one core
    # Ctrl-C and `timeout` signal the whole process group: the parent decides how to stop, so its
    # workers leave the group. Its own SIGTERM must still reach them: a worker that ignored it would
    # hang the parent at exit. A worker whose parent is gone ends by torch's own watchdog.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgrp"):  # not on Windows
        os.setpgrp()
