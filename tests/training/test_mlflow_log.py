"""Epochs in MLflow: through a stand-in for its client, which need not be installed."""

import sys
import types
from pathlib import Path

import pytest

import lungunet
from lungunet import LungUNetWarning, MissingExtraError, MlflowLog, RunConfig

SETTINGS = {"epochs": 2, "size": 32, "batch_size": 2, "workers": 0}


class Client:
    """Keeps what it is told."""

    made: "list[Client]" = []  # noqa: RUF012 - looked at by the tests
    store: "dict[str, dict[str, object]]" = {}  # noqa: RUF012 - what a server would keep

    def __init__(self, tracking_uri: str) -> None:
        self.address = tracking_uri
        self.made.append(self)

    def get_experiment_by_name(self, name: str) -> None:
        return None

    def create_experiment(self, name: str) -> str:
        return name

    def create_run(self, experiment: str, run_name: str) -> types.SimpleNamespace:
        number = f"{run_name}-{len(self.store)}"
        self.store[number] = {"params": {}, "metrics": {}, "done": False}
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=number))

    def log_param(self, run: str, name: str, value: object) -> None:
        self.store[run]["params"][name] = value

    def log_metric(self, run: str, name: str, value: float, *, timestamp: int, step: int) -> None:
        assert (name, step) not in self.store[run]["metrics"]
        self.store[run]["metrics"][name, step] = value

    def get_metric_history(self, run: str, name: str) -> list[types.SimpleNamespace]:
        logged = self.store[run]["metrics"]
        return [types.SimpleNamespace(step=step) for key, step in logged if key == name]

    def set_terminated(self, run: str) -> None:
        self.store[run]["done"] = True


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> type[Client]:
    module = types.ModuleType("mlflow.tracking")
    module.MlflowClient = Client
    monkeypatch.setitem(sys.modules, "mlflow", types.ModuleType("mlflow"))
    monkeypatch.setitem(sys.modules, "mlflow.tracking", module)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(Client, "made", [])
    monkeypatch.setattr(Client, "store", {})
    return Client


def test_a_run_and_its_going_on(client, run_cli, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "a"
    small = ("--size", "32", "--batch-size", "2", "--workers", "0")
    done = run_cli("train", data, "-o", out, "--epochs", "1", *small, "--log", "mlflow")
    assert done.code == 0
    assert client.made[0].address == f"sqlite:///{out.resolve().as_posix()}/mlflow.db"
    (kept,) = client.store.values()
    assert (kept["params"]["epochs"], kept["done"]) == (1, True)
    assert str(data) not in map(str, kept["params"].values())
    run_cli("train", "--resume", out, "--epochs", "2")  # not told of this one
    done = run_cli("train", "--resume", out, "--epochs", "3", "--log", "mlflow")
    assert done.code == 0
    assert list(client.store.values()) == [kept]
    metrics = kept["metrics"]
    assert {step for _, step in metrics} == {1, 2, 3}
    rows = [line.split(",") for line in (out / "history.csv").read_text().splitlines()]
    column = rows[0].index("loss")
    for row in rows[1:]:
        assert metrics[f"loss/{row[1]}", int(row[0])] == float(row[column])


def test_nothing_is_left_where_the_run_is_refused(client, run_cli, own_run: Path, data) -> None:
    done = run_cli("train", data, "-o", own_run, "--log", "mlflow")
    assert (done.code, "holds a run already" in done.err) == (1, True)
    assert client.store == {}
    assert not (own_run / "mlflow.txt").exists()


def test_a_server_of_ones_own_that_goes_away(client, data, tmp_path, monkeypatch) -> None:
    def gone(self, *args: object, **more: object) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:1")
    monkeypatch.setattr(client, "log_metric", gone)
    config = RunConfig(data=data, **SETTINGS)
    log = MlflowLog(tmp_path / "a", config)
    run = lungunet.train_run(config, tmp_path / "a", on_epoch=log.add_epoch)
    with pytest.warns(LungUNetWarning, match=r"nothing more goes to MLflow \(no route\)") as said:
        results = list(run)
    log.close()
    assert len([each for each in said if "MLflow" in str(each.message)]) == 1
    assert (len(results), client.made[0].address) == (2, "http://localhost:1")


def test_without_the_extra(monkeypatch, run_cli, data: Path, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lungunet\[mlflow\]'"):
        MlflowLog(tmp_path, RunConfig(data=data))
    assert run_cli("train", data, "--log", "wandb").code == 2
    done = run_cli("train", data, "--cross-validate", "--log", "mlflow")
    assert (done.code, "--log: logs runs" in done.err) == (1, True)
