"""The epochs of a run in MLflow, for whoever keeps runs there; the only place that imports it.

Needs the ``[mlflow]`` extra. Sends numbers alone: no path, no name of a slice, no picture.
"""

import csv
import dataclasses
import math
import os
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lungunet.data.files import write_text
from lungunet.errors import LungUNetWarning, MissingExtraError
from lungunet.training.config import TrainConfig
from lungunet.training.tracking import HISTORY_COLUMNS, EpochResult

_EXPERIMENT = "lungunet"
_PATHS = ("data", "cache")  # settings that name folders, and may name people


class MlflowLog:
    """Logs each epoch of a run; pass :meth:`add_epoch` as ``on_epoch``.

    Goes to ``RUN/mlflow.db``, which ``mlflow ui --backend-store-uri sqlite:///RUN/mlflow.db``
    shows, or to the server that ``MLFLOW_TRACKING_URI`` names. MLflow's own usage reports are
    turned off.

    Parameters
    ----------
    out : the run folder; its name is that of the MLflow run, and its mlflow.txt keeps its id
    config : logged as parameters, all but folders
    resume : go on with the MLflow run of this folder; epochs that it lacks are taken from
        history.csv

    Raises
    ------
    MissingExtraError
        When MLflow is not installed.
    """

    def __init__(self, out: str | Path, config: TrainConfig, *, resume: bool = False) -> None:
        self._client_of = _mlflow_client()
        self._out, self._config, self._resume = Path(out).resolve(), config, resume
        self._client: Any = None
        self._logged: set[int] = set()
        self._id = ""
        self._failed = False

    def add_epoch(self, result: EpochResult) -> None:
        """Log the scores of train and val under the names that TensorBoard has, as ``iou/val``.

        A server that cannot be reached ends no training: a warning says so, once.
        """
        with self._saying():
            if self._failed:
                return
            if self._client is None:
                self._connect()
            self._add(result.rows())

    def close(self) -> None:
        """Mark the MLflow run as finished."""
        with self._saying():
            if self._id and not self._failed:
                self._client.set_terminated(self._id)

    @contextmanager
    def _saying(self) -> Iterator[None]:
        try:
            yield
        except Exception as err:  # of MLflow, of a database, of a network
            self._failed = True  # each try may wait for minutes
            reason = str(err).partition("\n")[0]
            warnings.warn(
                f"nothing more goes to MLflow ({reason}). history.csv has every epoch; a run that "
                "is resumed sends what is missing.",
                LungUNetWarning,
                stacklevel=4,
            )

    def _connect(self) -> None:
        local = f"sqlite:///{self._out.as_posix()}/mlflow.db"
        address = os.environ.get("MLFLOW_TRACKING_URI") or local
        client, note = self._client_of(tracking_uri=address), self._out / "mlflow.txt"
        self._client = client
        if self._resume:
            with suppress(OSError):  # was not logged before
                self._id = note.read_text(encoding="utf-8").strip()
        if not self._id:
            self._id = self._begin(self._out.name, self._config)
            write_text(note, f"{self._id}\n")
            return
        self._logged = {metric.step for metric in client.get_metric_history(self._id, "lr")}
        with (self._out / "history.csv").open(encoding="utf-8", newline="") as file:
            self._add(csv.DictReader(file))

    def _begin(self, name: str, config: TrainConfig) -> str:
        found = self._client.get_experiment_by_name(_EXPERIMENT)
        experiment = found.experiment_id if found else self._client.create_experiment(_EXPERIMENT)
        run: str = self._client.create_run(experiment, run_name=name).info.run_id
        for setting, value in dataclasses.asdict(config).items():
            if setting not in _PATHS:
                self._client.log_param(run, setting, value)
        return run

    def _add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        now, added = int(time.time() * 1000), set()
        for row in rows:
            epoch = int(row["epoch"])
            if epoch in self._logged:
                continue
            added.add(epoch)
            for name in set(HISTORY_COLUMNS) - {"epoch", "split"}:
                value = float(row[name] if row[name] != "" else math.nan)
                key = name if name == "lr" else f"{name}/{row['split']}"
                if math.isfinite(value) and (name != "lr" or row["split"] == "train"):
                    self._client.log_metric(self._id, key, value, timestamp=now, step=epoch)
        self._logged |= added


def _mlflow_client() -> Any:
    # It reports its use to its makers unless told not to, before it is imported.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")
    try:
        from mlflow.tracking import MlflowClient  # type: ignore[import-not-found]
    except ImportError as err:
        raise MissingExtraError(
            f"{err.name} is not installed. pip install 'lungunet[mlflow]'", where="mlflow"
        ) from err
    return MlflowClient
