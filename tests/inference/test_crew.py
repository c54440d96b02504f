"""Processes that share a job: order, errors, warnings, and what becomes of dead ones."""

import os
import signal
import time
import warnings
from contextlib import closing
from pathlib import Path

import pytest

from lungunet.errors import ConfigError, DataError, LungUNetWarning
from lungunet.inference.crew import Crew, GoneError, LostError, Sharing, start_processes


def start(device: str):
    """Answer with the device; some items do worse."""
    if device == "none":
        raise ConfigError("this machine has none.", where=device)
    if device == "dead":
        os._exit(3)
    return work


def work(item):
    kind, what = item
    if kind == "late":
        time.sleep(what)
    if kind == "sleep":
        time.sleep(600)
    if kind == "raise":
        raise DataError("damaged.", where=what)
    if kind == "warn":
        warnings.warn(what, LungUNetWarning, stacklevel=1)
    if kind == "kill" or (kind == "kill once" and not Path(what).exists()):
        Path(what).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return what, os.getpid()


@pytest.fixture
def crew():
    with Crew(start_processes(start, ["cpu", "cpu"])) as made:
        yield made


class TestCrew:
    def test_results_come_in_order_from_both(self, crew) -> None:
        items = [("late", 0.3), *(("plain", n) for n in range(20)), ("late", 0.3)]
        done = list(crew.map(crew.ask, items))
        assert [what for what, _ in done] == [what for _, what in items]
        assert len({process for _, process in done}) == 2

    def test_errors_and_warnings_cross(self, crew) -> None:
        with pytest.raises(DataError, match=r"^a: damaged\.$") as raised:
            crew.ask(("raise", "a"))
        assert raised.value.where == "a"
        with pytest.warns(LungUNetWarning, match="^odd$"):
            crew.ask(("warn", "odd"))

    def test_a_dead_process_is_replaced_and_its_item_done(self, crew, tmp_path) -> None:
        once = ("kill once", str(tmp_path / "flag"))
        done = list(crew.map(crew.ask, [once, ("plain", 1), ("plain", 2)]))
        assert [what for what, _ in done] == [once[1], 1, 2]

    def test_an_item_that_kills_is_told(self, crew, tmp_path) -> None:
        with pytest.raises(LostError, match=r"device 'cpu' ended \(SIGKILL, as where memory is"):
            crew.ask(("kill", str(tmp_path / "flag")))
        assert crew.ask(("plain", 1))[0] == crew.ask(("plain", 1))[0] == 1

    def test_who_stops_waits_for_nobody(self, crew) -> None:
        begun = time.monotonic()
        with closing(crew.map(crew.ask, [("plain", 1), *[("sleep", 2)] * 20])) as results:
            assert next(results)[0] == 1
        assert time.monotonic() - begun < 200  # of 600
        assert not any(worker._process.is_alive() for worker in crew._workers)

    @pytest.mark.parametrize(
        ("device", "said"),
        [
            ("none", "none: this machine has none"),
            ("dead", r"device 'dead' ended \(exit code 3\) before it could begin"),
        ],
    )
    def test_what_cannot_begin(self, device, said) -> None:
        crew = Crew(start_processes(start, [device]))
        with crew, pytest.raises(ConfigError, match=said):
            crew.ask(("plain", 1))

    def test_without_those_that_are_gone(self) -> None:
        class Gone:
            def __call__(self, item):
                raise GoneError("no machine")

            def stop(self) -> None:
                pass

        class There(Gone):
            def __call__(self, item):
                return item, []

        crew = Crew([Gone(), There(), Gone()])
        assert list(crew.map(crew.ask, range(9))) == list(range(9))
        crew = Crew([Gone(), Gone()])
        with pytest.raises(ConfigError, match="no machine, and no other is left"):
            list(crew.map(crew.ask, range(9)))


def test_what_cannot_be_shared() -> None:
    with pytest.raises(ConfigError, match="devices and ray: Ray says itself"):
        Sharing(devices=("cpu", "cpu"), ray="auto")
    with pytest.raises(ConfigError, match="ray_cores=0: must be at least 1"):
        Sharing(ray="auto", ray_cores=0)
