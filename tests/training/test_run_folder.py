"""Where runs go, and what is asked of a run folder before it is gone on with."""

from pathlib import Path

import pytest

import lungunet
from lungunet import ConfigError, RunConfig, TrainConfig, count_epochs, next_run_folder
from lungunet.training.run_folder import RunFolder


class TestNextRunFolder:
    def test_counts_on_and_keeps_what_something_came_of(self, tmp_path: Path) -> None:
        for number in ("001", "002"):
            with next_run_folder(tmp_path / "runs") as folder:
                assert folder == tmp_path / "runs" / number
                (folder / "config.toml").touch()
        (tmp_path / "runs" / "001" / "config.toml").unlink()
        (tmp_path / "runs" / "001").rmdir()
        with next_run_folder(tmp_path / "runs") as folder:
            assert folder.name == "001"
        assert [path.name for path in (tmp_path / "runs").iterdir()] == ["002"]

    def test_two_at_once_get_one_each(self, tmp_path: Path) -> None:
        with next_run_folder(tmp_path) as one, next_run_folder(tmp_path) as two:
            assert (one.name, two.name) == ("001", "002")

    def test_goes_again_after_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError), next_run_folder(tmp_path):
            raise ConfigError("x")
        assert not list(tmp_path.iterdir())

    def test_a_file_in_its_place_is_no_endless_search(self, tmp_path: Path) -> None:
        (tmp_path / "runs").symlink_to(tmp_path / "nowhere")
        with pytest.raises(FileExistsError), next_run_folder(tmp_path / "runs"):
            pass


def test_where_no_open_file_can_be_removed_the_lock_goes_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = Path.unlink

    def as_windows_does(path: Path, missing_ok: bool = False) -> None:
        held = [file.resolve() for file in Path("/proc/self/fd").iterdir()]
        if path.resolve() in held:
            raise PermissionError(13, "used by another process")
        unlink(path, missing_ok)

    monkeypatch.setattr("lungunet.data.lock.fcntl", None)
    monkeypatch.setattr(Path, "unlink", as_windows_does)
    with RunFolder(tmp_path).claimed():
        assert (tmp_path / ".lock").exists()
    assert not (tmp_path / ".lock").exists()
    with RunFolder(tmp_path).claimed(), (tmp_path / ".lock").open():  # as by a virus scanner
        pass


@pytest.mark.parametrize(
    ("history", "epochs"),
    [
        ("epoch,split\n1,train\n1,val\n2,train\n2,val\n", 2),
        ("epoch,split\n", 0),
        ("", 0),
        (None, 0),
    ],
)
def test_count_epochs(tmp_path: Path, history: str | None, epochs: int) -> None:
    if history is not None:
        (tmp_path / "history.csv").write_text(history)
    assert count_epochs(tmp_path) == epochs


def test_count_epochs_of_a_run(run: Path) -> None:
    assert count_epochs(run) == 2


class TestConfigOfRun:
    def test_is_what_the_run_was_made_with_but_for_the_changes(self, run: Path, data: Path) -> None:
        before = RunConfig.of_run(run)
        assert before == RunConfig(data=str(data), epochs=2, size=32, batch_size=2, workers=0)
        after = RunConfig.of_run(run, epochs=9, device="cpu")
        assert (after.epochs, after.device, after.fixed()) == (9, "cpu", before.fixed())

    def test_what_may_not_change_is_refused(self, run: Path) -> None:
        with pytest.raises(ConfigError, match=r"^lr, size: a resumed run keeps .* only cache, cud"):
            RunConfig.of_run(run, lr=0.1, epochs=3, size=64)

    def test_a_folder_that_is_no_run(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"no run \(config.toml is missing\)"):
            RunConfig.of_run(tmp_path)

    def test_a_run_that_only_its_program_can_go_on_with(self, tmp_path: Path) -> None:
        TrainConfig().save(tmp_path / "config.toml")
        with pytest.raises(ConfigError, match="was made in Python, with a model and data that"):
            RunConfig.of_run(tmp_path)


class TestOnEpoch:
    def test_is_told_each_epoch_once_it_is_written(self, data: Path, tmp_path: Path) -> None:
        out, told = tmp_path / "a", []

        def tell(result: lungunet.EpochResult) -> None:
            told.append((result.epoch, (out / "history.csv").read_text().count("\n")))

        config = lungunet.RunConfig(data=data, epochs=2, size=32, batch_size=2, workers=0)
        results = list(lungunet.train_run(config, out, on_epoch=tell))
        assert told == [(1, 3), (2, 5)]
        assert [result.epoch for result in results] == [1, 2]

    def test_of_fit(self, split: lungunet.Split, tmp_path: Path) -> None:
        train = lungunet.LungCTDataset(split.train, size=32)
        val = lungunet.LungCTDataset(split.val, contract=train.contract)
        model = lungunet.build_unet("unet2015", width=2, seed=0)
        config = lungunet.TrainConfig(epochs=2, batch_size=2, workers=0)
        told: list[lungunet.EpochResult] = []
        trainer = lungunet.Trainer(model, config, out=tmp_path / "b")
        assert trainer.fit(train, val, on_epoch=told.append) == told


def test_no_empty_folders_stay_where_scores_were(own_run: Path) -> None:
    pictures = own_run / "evaluation" / "test" / "pictures"
    pictures.mkdir(parents=True)
    (pictures / "worst-01_a.png").touch()
    (pictures.parent / "scores.json").touch()
    RunFolder(own_run).start(overwrite=True)
    assert not (own_run / "evaluation").exists()
    assert own_run.is_dir()


def test_what_others_put_beside_the_model_stays(own_run: Path) -> None:
    kept = [own_run / "best" / name for name in (".cache/huggingface/x", "notes.md")]
    for file in kept:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    RunFolder(own_run).start(overwrite=True)
    left = sorted(path for path in (own_run / "best").rglob("*") if path.is_file())
    assert left == kept
    assert not (own_run / "last.ckpt").exists()


def test_a_folder_in_the_place_of_a_file_is_told_before_anything_is_gone(own_run: Path) -> None:
    (own_run / "best" / "README.md").unlink()
    (own_run / "best" / "README.md").mkdir()
    before = sorted(own_run.rglob("*"))
    with pytest.raises(ConfigError, match=r"README\.md: a folder where a file of the run would be"):
        RunFolder(own_run).start(overwrite=True)
    assert sorted(own_run.rglob("*")) == before


OTHERS = (
    *("report.html", "slices.csv", "config.toml", "environment.json", "best/model.safetensors"),
    *("events.out.tfevents.1.me", "evaluation/mine/scores.json", "best/README.md"),
)


class TestFilesOfOthers:
    @pytest.mark.parametrize("name", OTHERS)
    def test_are_refused_by_name(self, tmp_path: Path, name: str) -> None:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}")
        with pytest.raises(ConfigError, match=r"already there\. Add overwrite=True") as refused:
            RunFolder(tmp_path).start()
        assert str(refused.value).startswith(f"{file}: ")
        assert file.read_text() == "{}"
        RunFolder(tmp_path).start(overwrite=True)

    def test_that_a_run_does_not_touch_stay(self, tmp_path: Path) -> None:
        kept = [tmp_path / name for name in ("train.py", ".notes.tmp", "best/x.txt")]
        for file in kept:
            file.parent.mkdir(exist_ok=True)
            file.touch()
        RunFolder(tmp_path).start()
        assert all(file.exists() for file in kept)

    def test_what_is_left_of_a_run_without_a_checkpoint_begins_again(self, own_run: Path) -> None:
        for name in ("last.ckpt", "history.csv", "best/lungunet.json"):
            (own_run / name).unlink()
        for file in own_run.glob("evaluation/**/*.*"):
            file.unlink()
        (own_run / "report.html").unlink(missing_ok=True)
        RunFolder(own_run).start()
        left = {str(file.relative_to(own_run)) for file in own_run.rglob("*") if file.is_file()}
        assert left == {"config.toml", "environment.json"}

    def test_a_best_model_without_a_checkpoint_is_not_said_to_go_on(self, own_run: Path) -> None:
        (own_run / "last.ckpt").unlink()
        with pytest.raises(ConfigError, match=r"no last\.ckpt to go on from: replace it \(overw"):
            RunFolder(own_run).start()


def test_a_run_stays_in_its_folder_whatever_the_current_one(
    split: lungunet.Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = lungunet.LungCTDataset(split.train, size=32)
    val = lungunet.LungCTDataset(split.val, contract=train.contract)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    model = lungunet.build_unet("unet2015", width=2, seed=0)
    trainer = lungunet.Trainer(model, TrainConfig(epochs=2, batch_size=2, workers=0), out="a")
    for _ in trainer.epochs(train, val):
        monkeypatch.chdir(tmp_path / "other")
    assert not list((tmp_path / "other").iterdir())
    assert count_epochs(tmp_path / "a") == 2
