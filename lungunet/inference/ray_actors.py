"""Processes on the machines of a Ray cluster; the one file that knows Ray.

Plain actors and not Ray Data: a scan is a path that goes out and a few numbers that come back, for
which Ray Data would bring Arrow and pandas, and an order and tables of its own.
"""

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from lungunet._version import __version__
from lungunet.errors import ConfigError, MissingExtraError
from lungunet.inference.crew import GoneError, LostError, Work, Worker, do
from lungunet.models.cores import limit_cores

_SOON = 30.0
_SECONDS = 300  # that a process may take to begin, on a machine that reads torch for the first time


class _Actor:
    """What runs in the cluster: the model, and what is done with it."""

    def __init__(
        self, start: Callable[[str], Work], folder: str, version: str, *, cores: int | None
    ) -> None:
        self._error: Exception | None = None
        try:
            self._begin(start, folder, version, cores)
        except Exception as err:  # what is raised here, Ray tells as text
            self._error = err

    def _begin(
        self, start: Callable[[str], Work], folder: str, version: str, cores: int | None
    ) -> None:
        machine = f"Ray machine {os.uname().nodename}"
        if version != __version__:
            raise ConfigError(
                f"lungunet {__version__} is there, and {version} here. Install the same.",
                where=machine,
            )
        try:
            os.chdir(folder)  # paths are those of who asks
        except OSError as err:
            raise ConfigError(
                f"{folder} is not there ({err.strerror}). Work in a folder that all machines see.",
                where=machine,
            ) from err
        if cores:
            limit_cores(cores)
        self._work = start("auto" if cores is None else "cpu")

    def ready(self) -> None:
        """Raise what was wrong."""
        if self._error:
            raise self._error

    def do(self, item: Any) -> tuple[Any, list[str]]:
        """Do one item; return also what was warned of."""
        return do(self._work, item)


class _RayWorker:
    """An actor as seen from here, which is replaced where it or its machine fails."""

    def __init__(self, ray: Any, create: Callable[[], Any]) -> None:
        self._ray, self._create = ray, create
        self._stopped = False
        self._open()

    def _open(self) -> None:
        self._actor = self._create()
        self._ready = self._actor.ready.remote()

    def __call__(self, item: Any) -> Any:
        errors = self._ray.exceptions
        try:
            self._ray.get(self._ready, timeout=_SECONDS)
            return self._ray.get(self._actor.do.remote(item))
        except errors.RayTaskError as err:
            raise (err.cause or err) from err
        except errors.GetTimeoutError as err:
            raise GoneError(f"no process began on the cluster within {_SECONDS} s") from err
        except errors.RayActorError as err:
            if not self._stopped:
                self._open()
            raise LostError("the process on the cluster ended") from err

    def stop(self) -> None:
        self._stopped = True
        if self._ray.is_initialized():
            self._ray.kill(self._actor)


def start_actors(
    start: Callable[[str], Work], address: str, *, cores: int, most: int
) -> tuple[list[Worker], Callable[[], None]]:
    """Start an actor for each free GPU of a cluster, or for so many free cores; also how to leave.

    Raises
    ------
    MissingExtraError
        When Ray is not installed.
    ConfigError
        When there is no such cluster, or nothing free in it.
    """
    ray = _import_ray()
    leave = _connect(ray, address)
    gpus, cpus = _find_free(ray, cores)
    count = min(most, gpus or cpus // cores)
    if count < 1:
        leave()
        raise ConfigError(
            f"the cluster has no free GPU, and fewer than {cores} free cores. Wait, or give a "
            "smaller ray_cores.",
            where=f"ray={address!r}",
        )
    options = {"num_gpus": 1, "num_cpus": 0} if gpus else {"num_cpus": cores}
    actor = ray.remote(**options)(_Actor)
    create = partial(
        actor.remote, start, str(Path.cwd()), __version__, cores=None if gpus else cores
    )
    return [_RayWorker(ray, create) for _ in range(count)], leave


def _find_free(ray: Any, cores: int) -> tuple[int, int]:
    """Return how many GPUs and cores are free; those of a job that has just ended are soon."""
    until = time.monotonic() + _SOON
    while True:
        free = ray.available_resources()
        gpus, cpus = int(free.get("GPU", 0)), int(free.get("CPU", 0))
        if gpus or cpus >= cores or time.monotonic() > until:
            return gpus, cpus
        time.sleep(0.2)


def _connect(ray: Any, address: str) -> Callable[[], None]:
    """Join a cluster, or start one; return how to leave it, which does nothing in the caller's."""
    if ray.is_initialized():
        return lambda: None
    quiet = {"logging_level": "ERROR", "log_to_driver": False}
    try:
        try:
            ray.init(address=address, **quiet)
        except ConnectionError:
            if address != "auto":
                raise
            _stay_here(ray)
            ray.init(_node_ip_address="127.0.0.1", include_dashboard=False, **quiet)  # none runs
    except Exception as err:  # Ray raises what it likes, and Exception itself
        first = str(err).strip().splitlines()[:1]
        raise ConfigError(
            f"no cluster ({''.join(first)}). Start one, or write auto for that of this machine.",
            where=f"ray={address!r}",
        ) from err
    leave: Callable[[], None] = ray.shutdown
    return leave


def _stay_here(ray: Any) -> None:
    """Let nothing of a cluster that is started now listen to other machines.

    Ray 2.60 has a switch for it, which is off on Linux: 127.0.0.1 alone would be replaced by an
    address that others reach.
    """
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # for processes that it starts
    ray._private.ray_constants.ENABLE_RAY_CLUSTER = False


def _import_ray() -> Any:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # it would report to its makers
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what it will be, it warns of
    try:
        import ray
    except ImportError as err:
        raise MissingExtraError(
            "Ray is not installed. pip install 'lungunet[ray]'", where="ray"
        ) from err
    return ray
