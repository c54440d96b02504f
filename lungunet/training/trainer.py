"""The training loop: one visible loop, and the run folder it leaves behind.

Knows tensors, a model and a config; reads no command line and prints nothing.
"""

import itertools
import math
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lungunet.data.dataset import LungCTDataset
from lungunet.data.kinds import check_kind
from lungunet.errors import ConfigError, listed
from lungunet.models.cores import count_cores
from lungunet.models.device import fast_products
from lungunet.models.unet import mark_source, source_of
from lungunet.progress import Progress, silent
from lungunet.training.batches import Batches
from lungunet.training.checkpoint import (
    apart,
    check_made_with,
    check_same_run,
    load_into,
    made_with,
    rng_state,
    seed_everything,
    set_rng_state,
)
from lungunet.training.checks import (
    all_finite,
    check_has_lung,
    check_same_contract,
    check_samples,
    check_values,
    explain_memory,
    try_out,
    warn_if_made_otherwise,
    warn_if_stuck,
)
from lungunet.training.config import TrainConfig
from lungunet.training.learner import Batch, Learner, Loss
from lungunet.training.lineage import Lineage, read_lineage, warn_of_seen
from lungunet.training.lr_finder import LRRange, RangeTest, run_range_test
from lungunet.training.meters import FiniteLosses, PassMeter
from lungunet.training.run_folder import RunFolder
from lungunet.training.save_or_stop import SaveOrStop
from lungunet.training.tracking import EpochResult, Measured, TensorBoardLog, val_pictures


@dataclass(frozen=True)
class _Position:
    """What is trained on, and how far that is.

    Parameters
    ----------
    epoch : being trained, counts from 1
    step : so many of its steps are done
    meters : what they measured, as :meth:`PassMeter.state` gives it
    """

    train: LungCTDataset
    val: LungCTDataset
    val_ill: LungCTDataset | None = None
    epoch: int = 1
    step: int = 0
    meters: dict[str, Any] = field(default_factory=dict)

    @property
    def lists(self) -> dict[str, LungCTDataset]:
        """The datasets there are, by name."""
        lists = {"train": self.train, "val": self.val, "val_ill": self.val_ill}
        return {name: held for name, held in lists.items() if held is not None}

    @property
    def names(self) -> dict[str, list[str]]:
        """What the data are known by, wherever the files lie."""
        return {name: [pair.name for pair in held.pairs] for name, held in self.lists.items()}

    @property
    def next_epoch(self) -> "_Position":
        """The start of the epoch after this one."""
        return replace(self, epoch=self.epoch + 1, step=0, meters={})

    @property
    def in_epoch(self) -> dict[str, Any]:
        """How far the epoch is, as the checkpoint keeps it: empty at its start."""
        return {"step": self.step, "meters": self.meters} if self.step else {}


class Trainer:
    """Trains a model and keeps everything about it in a run folder.

    ``model``, ``optimizer``, ``history`` and ``best`` (the best epoch's result) can be looked at.

    Under ``torchrun`` several processes train one model: each batch is divided among them.

    Parameters
    ----------
    model : takes (N, 1, H, W) float32, returns logits (N, C, H, W); a smaller output, as a U-Net
        with valid convolutions gives, is trained on the centre of the mask
    config : settings; None takes the defaults
    out : the run folder; made when training starts
    loss : in the place of the one that the config names; must be a mean over slices, and know
        :data:`IGNORE` where masks hold it
    progress : shows how far an epoch is, such as ``tqdm.tqdm``
    should_stop : asked at every step; True writes a checkpoint, and :meth:`epochs` ends
    notes : JSON-able facts that environment.json gets beside its own

    Raises
    ------
    ConfigError
        When the config asks for a device that is not there, or for freezing what is not there.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainConfig | None = None,
        *,
        out: str | Path,
        loss: Loss | None = None,
        progress: Progress = silent,
        should_stop: Callable[[], bool] = bool,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        check_kind("model", model, nn.Module, "Give what build_unet() returns.")
        check_kind("config", config, TrainConfig | None, "Give TrainConfig(epochs=20), say.")
        self.config = config or TrainConfig()
        self.folder = RunFolder(out)
        self._learner = Learner(model, self.config, loss)
        self.model, self.optimizer = self._learner.model, self._learner.stepper.optimizer
        self.history: list[EpochResult] = []
        self.best: EpochResult | None = None
        self._save_or_stop = SaveOrStop(self.config, should_stop, self._learner.ranks)
        self._progress = progress
        self._notes = dict(notes or {})
        self._made_with: dict[str, Any] = {}
        weights = getattr(self.config, "weights", "none")  # of a RunConfig
        self._began_with = source_of(model) if weights == "none" else weights

    def fit(
        self,
        train: LungCTDataset,
        val: LungCTDataset,
        *,
        resume: bool = False,
        overwrite: bool = False,
        on_epoch: Callable[[EpochResult], object] | None = None,
        val_ill: LungCTDataset | None = None,
    ) -> list[EpochResult]:
        """Train to the end: the loop over :meth:`epochs`.

        Parameters
        ----------
        on_epoch : called with the result of each epoch once its files are written, such as to send
            it to a tracker; with several processes, in the first one alone
        val_ill : as for :meth:`epochs`

        Returns
        -------
        list of EpochResult
            Of all epochs, those before a resume included.
        """
        for result in self.epochs(train, val, resume=resume, overwrite=overwrite, val_ill=val_ill):
            if on_epoch is not None and self._learner.ranks.is_first:
                on_epoch(result)
        return self.history

    def epochs(
        self,
        train: LungCTDataset,
        val: LungCTDataset,
        *,
        resume: bool = False,
        overwrite: bool = False,
        val_ill: LungCTDataset | None = None,
    ) -> Iterator[EpochResult]:
        """Train epoch by epoch; ``break`` stops early and leaves a complete run folder.

        Between epochs and at the end the generators of ``random`` and torch, and torch's number of
        threads, are as they were: what the loop around this draws changes no weights.

        Each epoch: one pass over ``train``, one over ``val``, one over ``val_ill`` where there is
        one, then best model, events, checkpoint and history are written, then its result is
        yielded.

        Parameters
        ----------
        resume : go on from ``last.ckpt`` in the run folder, in the middle of an epoch if need be
        overwrite : replace what the folder holds of a run; without it nothing there is touched
        val_ill : val with painted disease, :class:`IllLungCTDataset`; then the best epoch is that
            of the highest mean of both IoU. A run that began without goes on without

        Raises
        ------
        ConfigError
            When val does not carry train's contract and codec, the run folder is in use, the
            loss is no longer a number, or memory runs out.
        ModelError
            When the checkpoint is missing or of another run.
        DataError, GeometryError, LabelError
            When a file is wrong, or the disk is full.
        SplitError
            When train or val holds no lung.
        DataError, ConfigError
            When slices cannot be HU, or the window leaves one grey of them.
        """
        check_same_contract(train, val)
        if val_ill is not None:
            check_same_contract(train, val_ill, name_of_val="val_ill")
        position = _Position(train, val, val_ill)
        results = self._seeded_epochs(position, resume=resume, overwrite=overwrite)
        yield from apart(results, self._learner.device)

    def _seeded_epochs(
        self, position: _Position, *, resume: bool, overwrite: bool
    ) -> Generator[EpochResult, None, None]:
        train, val = position.train, position.val
        ranks, device = self._learner.ranks, self._learner.device
        seed_everything(self.config.seed + ranks.rank)
        if resume:
            position = self._resume(position)
            if self._is_done():
                return
        elif self.history:
            raise ConfigError(
                "this Trainer has trained already. Make a new one, with a new "
                "model, for a new run.",
                where=self.folder.shown,
            )
        if not resume:
            check_values(train)
        check_has_lung("train", train)
        check_has_lung("val", val)
        for name, dataset in position.lists.items():
            check_samples(name, dataset)
        if not resume:
            self._fit_loss(position)
        with ExitStack() as stack:
            stack.enter_context(explain_memory(self.config, train))
            stack.enter_context(fast_products(device))
            stack.enter_context(ranks.joined(device))
            stack.callback(self._learner.forget_recorded)
            try_out(self._learner, train, self.config)
            if ranks.is_first:
                warn_if_made_otherwise(val)
                stack.enter_context(self.folder.claimed())
                lineage = Lineage()
                if resume:
                    self.folder.reopen(self.history)
                else:
                    # Before the start, which clears the folder: that may be what it begins with.
                    lineage = read_lineage(self._began_with)
                    warn_of_seen(lineage, val.pairs, weights=self._began_with)
                    self.folder.start(overwrite=overwrite)
                    notes = {"loss": str(self._learner.loss), **self._notes}
                    if self._began_with != "none":
                        notes["began_with"] = self._began_with
                    if lineage.ancestors:
                        notes["ancestors"] = lineage.ancestors
                    self.folder.save_environment(device, notes)
                self.folder.save_config(self.config)
                lists = {"train": train.pairs, "val": val.pairs}
                self.folder.save_slices(lists, lineage.seen)
            ranks.wait()
            mark_source(self.model, self.folder.path)  # what is trained from here on has seen these
            yield from self._epochs(position)

    def find_lr(
        self, train: LungCTDataset, *, lowest: float = 1e-6, highest: float = 1.0, steps: int = 100
    ) -> LRRange:
        """Try rising learning rates, a step each, on augmented batches of ``train``.

        Weights, optimizer and generators are put back; nothing is written.

        Raises
        ------
        ConfigError
            When the range is empty, the loss never falls, or memory runs out.
        DataError, GeometryError, LabelError
            When a file is wrong.
        """
        test = RangeTest(lowest=lowest, highest=highest, steps=steps)
        check_values(train)
        self._learner.fit_loss(train)
        batches = self._batches(train, shuffle=True)
        endless = itertools.chain.from_iterable(itertools.repeat(batches))
        some = self._progress(itertools.islice(endless, steps), desc="range test", total=steps)
        with explain_memory(self.config, train), fast_products(self._learner.device):
            return run_range_test(test, self._learner, some)

    def _epochs(self, position: _Position) -> Iterator[EpochResult]:
        batches = self._batches(position.train, shuffle=True)
        held_out = {n: self._batches(held) for n, held in position.lists.items() if n != "train"}
        self._save_or_stop.restart()
        with self._log(("train", *held_out)) as log:
            while not self._is_done():
                position, trained = self._train_epoch(position, batches)
                passes = self._held_out_passes(position, held_out) if trained else None
                if trained is None or passes is None:
                    self._save(position)
                    return
                result = self._judge(position, {"train": trained, **passes})
                if log is not None:
                    self._write(result, position, log)
                position = position.next_epoch
                self._save(position)
                warn_if_stuck(self.history)
                yield result

    def _train_epoch(
        self, position: _Position, batches: Batches
    ) -> tuple[_Position, Measured | None]:
        """Return how far it came and what that measured: None when it was asked to stop."""
        epoch, first = position.epoch, position.step
        ranks, stepper = self._learner.ranks, self._learner.stepper
        meters = PassMeter(position.train.codec)
        if first and ranks.is_first:  # one rank goes on with what all had counted
            meters.restore(position.meters)
        losses = FiniteLosses(lambda *seen: self._diverged(position, batches, *seen))
        batches.sampler.set_epoch(epoch, first_batch=first)
        net = self._learner.training_net(epoch)
        steps, every = len(batches), self.config.accumulate
        for step, (image, mask) in enumerate(self._show(batches, "train", first), start=first):
            stepper.follow_schedule(epoch, step, steps)
            logits, mask = self._learner.forward(net, image, mask)
            loss = self._learner.loss(logits, mask)
            stepper.backward(loss * self._weight(batches, step, len(mask)))
            losses.add(step, stepper.lr, loss)
            meters.update(loss, logits, mask)
            if (step + 1) % every and step + 1 < steps:
                continue
            stepper.step()
            save, stop = self._save_or_stop.ask(last=step + 1 == steps)
            if save or stop or step + 1 == steps:
                losses.check()
                position = replace(position, step=step + 1, meters=meters.state(ranks))
            if stop:
                return position, None
            if save:
                self._save(position)
        return position, meters.measured(ranks)

    def _weight(self, batches: Batches, step: int, mine: int) -> float:
        """Return the share of this rank's slices in the optimizer step; parts may be unequal."""
        every = self.config.accumulate
        group = range(step // every * every, min(step // every * every + every, len(batches)))
        # DDP takes the mean over ranks: times their number it is the sum.
        whole = sum(batches.sampler.batch_length(number) for number in group)
        return mine * self._learner.ranks.count / whole

    def _held_out_passes(
        self, position: _Position, held_out: Mapping[str, Batches]
    ) -> dict[str, Measured] | None:
        """Return None when it was asked to stop."""
        passes = {}
        for name, batches in held_out.items():
            measured = self._val_epoch(position, batches, name)
            if measured is None:
                return None
            passes[name] = measured
        return passes

    @torch.no_grad()
    def _val_epoch(self, position: _Position, batches: Batches, name: str) -> Measured | None:
        """Return None when it was asked to stop."""
        self._learner.net.eval()
        self._learner.ranks.share_buffers(self.model)
        batches.sampler.set_epoch(position.epoch)
        meters = PassMeter(position.train.codec)
        for image, mask in self._show(batches, name):
            if self._save_or_stop.stops_now():  # ranks may differ in their number of batches here
                return None
            logits, mask = self._learner.forward(self._learner.net, image, mask)
            meters.update(self._learner.loss(logits, mask), logits, mask)
        return meters.measured(self._learner.ranks)

    def _judge(self, position: _Position, passes: dict[str, Measured]) -> EpochResult:
        epoch = position.epoch
        for name, measured in passes.items():
            if name != "train" and not math.isfinite(measured.loss):
                raise self._failure(f"the loss is {measured.loss} on {name} after epoch {epoch}")
        if self._learner.stepper.overflows:
            raise self._failure(f"fp16 overflowed in nearly every step of epoch {epoch}")
        names = position.train.codec.names
        lr = self._learner.stepper.lr
        result = EpochResult(epoch, lr=lr, is_best=False, class_names=names, **passes)
        # NaN (no lung in val and none predicted) is worse than any number.
        is_best = self.best is None or _rank(result.score) > _rank(self.best.score)
        result = replace(result, is_best=is_best)
        self.history.append(result)
        self.best = result if is_best else self.best
        return result

    def _diverged(
        self, position: _Position, batches: Batches, step: int, lr: float, loss: float
    ) -> ConfigError:
        batch = batches.sampler.batch(position.epoch, step)
        names = listed([position.train.pairs[index].name for index in batch], separator=", ")
        return self._failure(
            f"the loss is {loss} in epoch {position.epoch}, step {step + 1} of {len(batches)}, at "
            f"a learning rate of {lr:.2g}, in the batch of {names}"
        )

    def _failure(self, what: str) -> ConfigError:
        other = " or use precision='bf16'" if self._learner.dtype == torch.float16 else ""
        return ConfigError(f"{what}. Lower lr{other}; {self.folder.kept}.", where=self.folder.shown)

    def _write(self, result: EpochResult, position: _Position, log: TensorBoardLog) -> None:
        """Write the best model, then the events: before the checkpoint that counts the epoch."""
        if result.is_best:
            train, val = position.train, position.val
            self.folder.save_best(
                self.model,
                contract=train.contract,
                codec=train.codec,
                result=result,
                slices={"train": len(train), "val": len(val)},
                began_with=self._began_with,
            )
            predict = partial(self._learner.logits, self._learner.net)
            for name, picture in val_pictures(val, predict):
                log.add_picture(name, picture, result.epoch)
        log.add_epoch(result)

    def _save(self, position: _Position) -> None:
        """Write last.ckpt."""
        self._save_or_stop.restart()
        if not all_finite(self.model):
            raise self._failure("the weights are no longer numbers")
        ranks = self._learner.ranks
        rng = ranks.gather(rng_state(self._learner.device))
        if not ranks.is_first:
            return
        state = {
            "model": self.model.state_dict(),
            **self._learner.stepper.state_dict(),
            "position": position.in_epoch,
            "rng": rng,
            "threads": torch.get_num_threads(),
            "settings": self.config.fixed(),
            "contract": position.train.contract.to_dict(),
            "codec": position.train.codec.to_dict(),
            "data": position.names,
            "made_with": self._made_with,
        }
        self.folder.save_last(state, self.history)

    def _resume(self, position: _Position) -> _Position:
        """Put everything back to where last.ckpt says; return where that is."""
        state, where, rank = self.folder.load_last(), self.folder.shown, self._learner.ranks.rank
        if "val_ill" not in state["data"]:  # its epochs were judged without, as by older versions
            position = replace(position, val_ill=None)
        check_same_run(state, position.train, position.names, self.config, where=where)
        self._fit_loss(position)
        check_made_with(state, self._made_with, where=where)
        load_into(state, self.model, self._learner.stepper, where=where)
        names = position.train.codec.names  # which an older version did not store
        stored = [EpochResult.from_dict(row) for row in state["history"]]
        self.history = [replace(result, class_names=names) for result in stored]
        self.best = next((r for r in reversed(self.history) if r.is_best), None)
        # Sums differ between thread counts; more than there are cores would crawl.
        torch.set_num_threads(min(state["threads"], count_cores()))
        if rank < len(state["rng"]):
            set_rng_state(state["rng"][rank], self._learner.device)
        return replace(position, epoch=len(self.history) + 1, **state["position"])

    def _fit_loss(self, position: _Position) -> None:
        self._learner.fit_loss(position.train)
        loss, is_own = self._learner.loss, self._learner.is_own_loss
        # Now: a loss may change while it is used.
        self._made_with = made_with(
            position.train, position.val, loss, name=None if is_own else self.config.loss
        )

    def _log(self, passes: tuple[str, ...]) -> AbstractContextManager[TensorBoardLog | None]:
        if not self._learner.ranks.is_first:
            return nullcontext()
        config = self.config.to_toml()
        first = len(self.history) + 1
        log = TensorBoardLog(self.folder.path, first_epoch=first, about=config, passes=passes)
        return closing(log)

    def _batches(self, dataset: LungCTDataset, *, shuffle: bool = False) -> Batches:
        device, ranks = self._learner.device, self._learner.ranks
        return Batches(dataset, self.config, device, ranks, shuffle=shuffle)

    def _show(self, batches: Batches, name: str, first: int = 0) -> Iterator[Batch]:
        desc = f"epoch {len(self.history) + 1}/{self.config.epochs} {name}"
        if self.history:  # the bar tells how long the pass takes, not how long all epochs do
            passes = self.history[-1].passes.values()
            left = sum(one.seconds for one in passes) * (self.config.epochs - len(self.history))
            desc += f", {max(1, round(left / 60))} min to go"
        return iter(self._progress(batches, desc=desc, total=len(batches) - first))

    def _is_done(self) -> bool:
        if len(self.history) >= self.config.epochs:
            return True
        waited = self.history[-1].epoch - self.best.epoch if self.best else 0
        return 0 < self.config.patience <= waited


def _rank(iou: float) -> float:
    return -1.0 if math.isnan(iou) else iou
