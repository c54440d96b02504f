"""A list of slices as batches on the device: what one pass reads.

Owns how they get there; the order is the sampler's, the pixels are the dataset's.
"""

from collections.abc import Iterator

import torch

from lungunet.data.dataset import EightBitSamples, LungCTDataset
from lungunet.data.loader import EpochSampler, make_loader
from lungunet.models.device import pick_workers
from lungunet.training.config import TrainConfig
from lungunet.training.distributed import Ranks
from lungunet.training.learner import Batch


class Batches:
    """Batches of a dataset on the device, those of this rank alone.

    Slices travel as eight bits, and are normalised where they arrive. They are shuffled for
    training, see :func:`make_loader`.
    """

    def __init__(
        self,
        dataset: LungCTDataset,
        config: TrainConfig,
        device: torch.device,
        ranks: Ranks,
        *,
        shuffle: bool = False,
    ) -> None:
        self._loader = make_loader(
            dataset,
            batch_size=config.batch_size,
            shuffle=shuffle,
            seed=config.seed,
            workers=pick_workers(config.workers, device, sharing=ranks.near),
            pin_memory=device.type == "cuda",
            rank=ranks.rank,
            ranks=ranks.count,
            eight_bit=EightBitSamples.serve(dataset),
        )
        assert isinstance(self._loader.sampler, EpochSampler)  # make_loader gave it
        self.sampler = self._loader.sampler
        self._contract = dataset.contract
        self._device = device

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        for image, mask in self._loader:
            # non_blocking: from pinned memory, and the loop does not wait for the copy.
            image = image.to(self._device, non_blocking=True)
            mask = mask.to(self._device, non_blocking=True)
            if image.dtype == torch.uint8:
                image = self._contract.normalise_batch(image)
            yield image, mask.long()
