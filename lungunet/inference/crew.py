"""Processes that share one job: each loads the model, and takes the next item when it has done one.

One process hands out the items, in order, and takes the results, in order: it alone keeps record
and tables, which are therefore those that it would have written by itself. Knows no slices and no
scans. Where the processes are is decided elsewhere: here, one for each device; or actors of Ray.
"""

import signal
import sys
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import Any, NoReturn, Protocol, Self, TypeVar

from lungunet.errors import ConfigError, LungUNetWarning
from lungunet.inference.parts import Part
from lungunet.models.cores import count_cores, limit_cores

T = TypeVar("T")
R = TypeVar("R")

_TRIES = 2
_AHEAD = 4  # items for each worker that may be done before those before them
_GUARD = "Try one device; in a script, call this below if __name__ == '__main__'."
_SECONDS = 10  # to let go of what is being written


@dataclass(frozen=True)
class Sharing:
    """How one job is shared out: among jobs by hand, and among processes.

    Parameters
    ----------
    part : ``"3/16"`` does the third of sixteen parts, and writes tables of that;
        :func:`merge_parts` joins them. An item's path below its input decides by a hash which part
        it is of: lists may grow, and every part may be given the whole list
    devices : a process for each, as ``("cuda:0", "cuda:1")``; they load the model by themselves,
        and import the script that asks, whose work must be below ``if __name__ == "__main__"``.
        None computes here, with the predictor that is given
    ray : a process for each free GPU of a Ray cluster, or else for its free cores: ``"auto"`` is
        the cluster of this machine, and starts one where there is none; or its address. Scans,
        masks and model are where all its machines see them under the same path
    ray_cores : of a cluster without GPUs so many for each process
    """

    part: str | None = None
    devices: tuple[str, ...] = ()
    ray: str | None = None
    ray_cores: int = 1

    def __post_init__(self) -> None:
        if self.devices and self.ray:
            raise ConfigError(
                "Ray says itself which devices there are. Leave one out.", where="devices and ray"
            )
        if self.ray_cores < 1:
            raise ConfigError("must be at least 1.", where=f"ray_cores={self.ray_cores}")

    @property
    def is_alone(self) -> bool:
        """Whether one process computes, this one."""
        return not self.devices and self.ray is None

    def folder(self, out: str | Path) -> Path:
        """Return where the tables go: to the masks, or those of a part to a folder below them."""
        return Part.parse(self.part).folder(Path(out)) if self.part else Path(out)


class LostError(Exception):
    """A process ended while it worked on an item; says how."""


class GoneError(LostError):
    """Likewise, and there will be none in its place."""


class Worker(Protocol):
    """A process that does one item after the other."""

    def __call__(self, item: Any) -> Any:
        """Do one item.

        Raises
        ------
        LostError
            When the process ended; there is a new one in its place.
        """
        ...

    def stop(self) -> None:
        """End it, whatever it does."""
        ...


Work = Callable[[Any], Any]
"""What a process does with an item; must be safe to send to it."""


class Crew:
    """Workers that share what they are asked; use it in ``with``, which ends them.

    An item whose process ends is tried once more, by whoever is free.
    """

    def __init__(self, workers: Sequence[Worker], leave: Callable[[], None] = lambda: None) -> None:
        self._workers, self._leave = workers, leave
        self._gone = 0
        self._stopped = False
        self._idle: SimpleQueue[Worker] = SimpleQueue()
        for worker in workers:
            self._idle.put(worker)

    @property
    def is_stopped(self) -> bool:
        """Whether nobody takes an item any more."""
        return self._stopped

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._leave()

    def map(self, work: Callable[[T], R], items: Iterable[T]) -> Generator[R, None, None]:
        """Yield ``work(item)`` in order, as many at once as there are workers to :meth:`ask`."""
        waiting: deque[Future[R]] = deque()
        with ThreadPoolExecutor(len(self._workers)) as pool:
            try:
                for item in items:
                    waiting.append(pool.submit(work, item))
                    if len(waiting) > _AHEAD * len(self._workers):
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            except BaseException:  # what they are at, nobody waits for
                for future in waiting:
                    future.cancel()
                self.stop()
                raise

    def ask(self, item: Any) -> Any:
        """Let a worker do an item, once there is one.

        Raises
        ------
        LostError
            When its process ended twice.
        ConfigError
            When there is no worker any more.
        """
        lost = LostError("stopped")
        tries = 0
        while tries < _TRIES and not self._stopped:
            worker = self._idle.get()
            try:
                answer, warned = worker(item)
            except GoneError as err:
                self._gone += 1
                if self._gone < len(self._workers):
                    continue
                self._idle.put(worker)  # the others shall hear it too
                raise ConfigError(f"{err}, and no other is left. Go on later.") from err
            except LostError as err:
                lost, tries = err, tries + 1
                self._idle.put(worker)
                continue
            except BaseException:
                self._idle.put(worker)
                raise
            self._idle.put(worker)
            for text in warned:
                warnings.warn(text, LungUNetWarning, stacklevel=2)
            return answer
        raise lost

    def stop(self) -> None:
        """End all processes."""
        self._stopped = True
        with ThreadPoolExecutor(len(self._workers)) as pool:
            list(pool.map(lambda worker: worker.stop(), self._workers))


def do(work: Work, item: Any) -> tuple[Any, list[str]]:
    """Do an item, in whatever process; return also what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", LungUNetWarning)
        done = work(item)
    ours = [one for one in caught if issubclass(one.category, LungUNetWarning)]
    return done, [str(one.message) for one in ours]


class _Process:
    """A process of this machine that computes on one device."""

    def __init__(self, start: Callable[[str], Work], device: str, *, cores: int) -> None:
        self._start, self._device, self._cores = start, device, cores
        self._stopped = False
        self._lock = Lock()  # to start and to end it
        self._open()

    def _open(self) -> None:
        context = get_context("spawn")  # CUDA cannot be used in a fork
        self._pipe, other = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(other, self._start, self._device, self._cores), daemon=True
        )
        self._process.start()
        other.close()
        self._ready = False

    def __call__(self, item: Any) -> Any:
        try:
            if not self._ready:
                self._hear()
                self._ready = True
            self._pipe.send(item)
            return self._hear()
        except (EOFError, ConnectionError) as err:
            self._replace(err)

    def _hear(self) -> Any:
        answer = self._pipe.recv()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _replace(self, err: Exception) -> NoReturn:
        self._process.join()
        why = f"the process of device '{self._device}' ended ({_say(self._process.exitcode)})"
        with self._lock:
            if not self._stopped and not self._ready:
                raise ConfigError(f"{why} before it could begin. {_GUARD}") from err
            if not self._stopped:
                self._open()
        raise LostError(why) from err

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            self._process.terminate()
            self._process.join(_SECONDS)
            self._process.kill()
            self._process.join()


def start_processes(start: Callable[[str], Work], devices: Sequence[str]) -> list[Worker]:
    """Start a process for each device, which share the cores of this machine."""
    cores = max(1, count_cores() // len(devices))
    return [_Process(start, device, cores=cores) for device in devices]


def _serve(pipe: Any, start: Callable[[str], Work], device: str, cores: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who hands out the items
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that files half-written go
    limit_cores(cores)
    with suppress(EOFError, ConnectionError):  # nobody asks or hears any more
        try:
            work = start(device)
        except Exception as err:
            pipe.send(err)
            return
        pipe.send(None)
        while True:
            item = pipe.recv()
            try:
                answer: Any = do(work, item)
            except Exception as err:
                answer = err
            pipe.send(answer)


def _say(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"{name}, as where memory is short" if name == "SIGKILL" else name
    return f"exit code {code}"
