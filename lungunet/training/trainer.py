"""The training loop: one visible loop, and the run folder it leaves behind.

Knows tensors, a model and a config; reads no command line and prints nothing.
"""

import math
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from lungunet.data.dataset import EpochSampler, LungCTDataset, make_loader
from lungunet.data.overlay import draw_overlay
from lungunet.errors import ConfigError, ModelError
from lungunet.models.device import pick_device, pick_precision
from lungunet.models.losses import CrossEntropyDiceLoss
from lungunet.progress import Progress, silent
from lungunet.training.checkpoint import rng_state, set_rng_state
from lungunet.training.checks import case_names, check_same_contract, try_out
from lungunet.training.config import TrainConfig
from lungunet.training.environment import environment_json
from lungunet.training.folder import RunFolder
from lungunet.training.meters import PassMeter
from lungunet.training.schedule import learning_rate
from lungunet.training.tracking import EpochResult, Measured, TensorBoardLog

_PICTURES = 4  # val slices that are shown in TensorBoard

Batch = tuple[torch.Tensor, torch.Tensor]
"""Image (N, 1, H, W) float32 and mask (N, H, W) int64."""

Batches = DataLoader[Batch] | Sequence[Batch]

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Takes logits (N, C, H, W) and mask (N, H, W) int64; returns the mean over slices, a scalar."""


class Trainer:
    """Trains a model and keeps everything about it in a run folder.

    Parameters
    ----------
    model : takes (N, 1, H, W) float32, returns logits (N, C, H, W); a smaller output, as a U-Net
        with valid convolutions gives, is trained on the centre of the mask
    config : settings; None takes the defaults
    out : the run folder; made when training starts
    loss : None means :class:`CrossEntropyDiceLoss`
    progress : shows how far an epoch is, such as ``tqdm.tqdm``
    notes : JSON-able facts that environment.json gets beside its own

    Raises
    ------
    ConfigError
        When the config asks for a device that is not there.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainConfig | None = None,
        *,
        out: str | Path,
        loss: Loss | None = None,
        progress: Progress = silent,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        self.config = config or TrainConfig()
        self.folder = RunFolder(out)
        self.loss: Loss = loss or CrossEntropyDiceLoss()
        self.device = pick_device(self.config.device)
        self.dtype = pick_precision(self.config.precision, self.device)
        self.model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if isinstance(self.loss, nn.Module):
            self.loss.to(self.device)
        # fused: one kernel for all parameters, and no device sync in fp16's scaler.
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=self.config.lr,
            weight_decay=self.config.weight_decay,
            fused=True,
        )
        # Disabled, it passes everything through: one loop for all precisions.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.history: list[EpochResult] = []
        self.best: EpochResult | None = None
        self._n_classes = 2  # until the data says otherwise
        self._names: dict[str, list[str]] = {}
        self._progress = progress
        self._notes = dict(notes or {})

    def fit(
        self,
        train: LungCTDataset,
        val: LungCTDataset,
        *,
        resume: bool = False,
        overwrite: bool = False,
    ) -> list[EpochResult]:
        """Train to the end: the loop over :meth:`epochs`.

        Returns
        -------
        list of EpochResult
            Of all epochs, those before a resume included.
        """
        for _ in self.epochs(train, val, resume=resume, overwrite=overwrite):
            pass
        return self.history

    def epochs(
        self,
        train: LungCTDataset,
        val: LungCTDataset,
        *,
        resume: bool = False,
        overwrite: bool = False,
    ) -> Iterator[EpochResult]:
        """Train epoch by epoch; ``break`` stops early and leaves a complete run folder.

        Each epoch: one pass over ``train``, one over ``val``, then best model, events,
        checkpoint and history are written, then its result is yielded.

        Parameters
        ----------
        resume : go on from ``last.ckpt`` in the run folder
        overwrite : replace the run that the folder holds

        Raises
        ------
        ConfigError
            When val does not carry train's contract and codec, the run folder is in use, or the
            loss is no longer a number.
        ModelError
            When the checkpoint is missing or of another run.
        DataError, GeometryError, LabelError
            When a file is wrong.
        """
        check_same_contract(train, val)
        self._n_classes = train.codec.n_classes
        self._names = case_names(train, val)
        self._seed()
        if resume:
            self._resume(train)
            if self._is_done():
                return
        elif self.history:
            raise ConfigError(
                f"{self.folder.path}: this Trainer has trained already. Make a new one, with a new "
                "model, for a new run."
            )
        try_out(self.model, train, batch_size=self.config.batch_size, dtype=self.dtype)
        if not resume:
            self.folder.start(overwrite=overwrite)
            self.folder.describe(environment_json(self.device, self._notes))
        self.folder.save_config(self.config)
        loaders = {"train": self._loader(train, shuffle=True), "val": self._loader(val)}
        with TensorBoardLog(self.folder.path, first_epoch=len(self.history) + 1) as log:
            log.add_text("config", self.config.to_toml(), len(self.history))
            while not self._is_done():
                epoch = len(self.history) + 1
                _set_epoch(loaders["train"], epoch)
                trained = self._train_epoch(loaders["train"], epoch)
                validated = self._val_epoch(loaders["val"], epoch)
                result = self._judge(epoch, trained, validated)
                self._leave(result, train, val, log)
                yield result

    def _train_epoch(self, batches: Batches, epoch: int) -> Measured:
        self.model.train()
        meters = PassMeter(self._n_classes)
        steps = len(batches)
        every = self.config.accumulate
        for step, (image, mask) in enumerate(
            self._show(batches, f"epoch {epoch}/{self.config.epochs} train")
        ):
            self._set_lr(epoch, step, steps)
            logits, mask = self._forward(image, mask)
            loss = self.loss(logits, mask)
            # The last group of an epoch may be shorter: divide by what it really holds.
            group = min(every, steps - step // every * every)
            self.scaler.scale(loss / group).backward()  # type: ignore[no-untyped-call]
            if (step + 1) % every == 0 or step + 1 == steps:
                self._step()
            meters.update(loss, logits, mask)
        return meters.measured()

    @torch.no_grad()
    def _val_epoch(self, batches: Batches, epoch: int) -> Measured:
        self.model.eval()
        meters = PassMeter(self._n_classes)
        for image, mask in self._show(batches, f"epoch {epoch}/{self.config.epochs} val"):
            logits, mask = self._forward(image, mask)
            meters.update(self.loss(logits, mask), logits, mask)
        return meters.measured()

    def _forward(
        self, image: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        # non_blocking: with pinned memory the copy overlaps with the step before.
        image = image.to(self.device, non_blocking=True, memory_format=torch.channels_last)
        mask = mask.to(self.device, non_blocking=True)
        with self._autocast():
            logits = self.model(image)
        return logits, _centre(mask, logits.shape[-2:])

    def _autocast(self) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def _step(self) -> None:
        if self.config.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def _set_lr(self, epoch: int, step: int, steps: int) -> None:
        per_epoch = math.ceil(steps / self.config.accumulate)
        lr = learning_rate(
            (epoch - 1) * per_epoch + step // self.config.accumulate,
            total=self.config.epochs * per_epoch,
            warmup=round(self.config.warmup_epochs * per_epoch),
            peak=self.config.lr,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def _judge(self, epoch: int, train: Measured, val: Measured) -> EpochResult:
        lr = self.optimizer.param_groups[0]["lr"]
        if not (math.isfinite(train.loss) and math.isfinite(val.loss)):
            raise ConfigError(
                f"{self.folder.path}: the loss is {train.loss} on train and {val.loss} on val in "
                f"epoch {epoch}, at a learning rate of {lr:.2g}. Lower lr; the checkpoint of epoch "
                f"{epoch - 1} is kept."
            )
        # NaN (no lung in val and none predicted) is worse than any number.
        is_best = self.best is None or _rank(val.iou) > _rank(self.best.val.iou)
        return EpochResult(epoch, train, val, lr, is_best)

    def _leave(
        self, result: EpochResult, train: LungCTDataset, val: LungCTDataset, log: TensorBoardLog
    ) -> None:
        """Write the epoch, in an order that a kill between any two files survives."""
        self.history.append(result)
        if result.is_best:
            self.best = result
            self.folder.save_best(
                self.model, contract=train.contract, codec=train.codec, result=result
            )
            for name, picture in self._pictures(val):
                log.add_picture(name, picture, result.epoch)
        log.add_epoch(result)
        self.folder.save_last(self._state(train), self.history)

    def _state(self, train: LungCTDataset) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": rng_state(self.device),
            "threads": torch.get_num_threads(),
            "contract": train.contract.to_dict(),
            "codec": train.codec.to_dict(),
            "data": self._names,
        }

    def _resume(self, train: LungCTDataset) -> None:
        state = self.folder.load_last()
        if state["data"] != self._names:
            raise ModelError(
                f"{self.folder.path}: was trained on other lists. Resume with the lists that it "
                "began with, or start a new run."
            )
        for name, now in (
            ("contract", train.contract.to_dict()),
            ("codec", train.codec.to_dict()),
        ):
            if state[name] != now:
                raise ModelError(
                    f"{self.folder.path}: was trained with {name} {state[name]}, now it is {now}. "
                    "Resume with the same data and settings, or start a new run."
                )
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as err:
            raise ModelError(
                f"{self.folder.path}: belongs to another model. Resume with the same encoder."
            ) from err
        self.scaler.load_state_dict(state["scaler"])
        self.history = [EpochResult.from_dict(stored) for stored in state["history"]]
        self.best = next((r for r in reversed(self.history) if r.is_best), None)
        torch.set_num_threads(state["threads"])  # sums differ between thread counts
        set_rng_state(state["rng"], self.device)
        self.folder.save_history(self.history)

    def _seed(self) -> None:
        random.seed(self.config.seed)
        torch.manual_seed(self.config.seed)
        if self.device.type == "cuda":
            # TF32: matrix products at ten bits of mantissa, several times faster on CUDA.
            torch.set_float32_matmul_precision("high")
            torch.backends.cudnn.allow_tf32 = True

    def _loader(self, dataset: LungCTDataset, *, shuffle: bool = False) -> DataLoader[Batch]:
        return make_loader(
            dataset,
            batch_size=self.config.batch_size,
            shuffle=shuffle,
            seed=self.config.seed,
            workers=_workers(self.config.workers, self.device),
            pin_memory=self.device.type == "cuda",
        )

    def _show(self, batches: Batches, desc: str) -> Iterator[Batch]:
        return iter(self._progress(batches, desc=desc, total=len(batches)))

    def _is_done(self) -> bool:
        if len(self.history) >= self.config.epochs:
            return True
        waited = self.history[-1].epoch - self.best.epoch if self.best else 0
        return 0 < self.config.patience <= waited

    @torch.no_grad()
    def _pictures(self, val: LungCTDataset) -> Iterator[tuple[str, np.ndarray]]:
        """Yield overlays of the same few val slices, spread over the list."""
        count = min(_PICTURES, len(val))
        for index in np.linspace(0, len(val) - 1, count).round().astype(int):
            grey, truth = val.read(index)
            image = torch.from_numpy(val.contract.normalise(grey))[None]
            logits, _ = self._forward(image, torch.from_numpy(truth)[None])
            pred = np.zeros_like(truth)
            small = logits[0].argmax(0).byte().cpu().numpy()
            top, left = ((a - b) // 2 for a, b in zip(truth.shape, small.shape, strict=True))
            pred[top : top + small.shape[0], left : left + small.shape[1]] = small
            name = f"val/{val.pairs[index].name} (truth blue, prediction orange)"
            yield name, draw_overlay(grey, truth=truth, pred=pred)


def _rank(iou: float) -> float:
    return -1.0 if math.isnan(iou) else iou


def _centre(mask: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    top, left = ((a - b) // 2 for a, b in zip(mask.shape[-2:], size, strict=True))
    return mask[..., top : top + size[0], left : left + size[1]]


def _set_epoch(loader: DataLoader[Batch], epoch: int) -> None:
    assert isinstance(loader.sampler, EpochSampler)  # we made the loader
    loader.sampler.set_epoch(epoch)


def _workers(wanted: int, device: torch.device) -> int:
    if wanted >= 0:
        return wanted
    # A CPU that trains has no core to spare, and reading takes it a tenth of the time.
    if device.type != "cuda":
        return 0
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    return min(8, len(allowed) or os.cpu_count() or 1)
