"""Models by hf://OWNER/NAME@REVISION, from a hub that the test serves."""

import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import lungunet
from lungunet import LungUNetWarning, ModelError, Predictor, WeightsUnavailableError, load_model
from lungunet.models.hub import fetch
from tests.hub import Hub, serve_hub

WEIGHTS = "model.safetensors"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub and an empty cache of its client, which has read the environment by now."""
    with serve_hub() as served:
        where = "huggingface_hub.constants."
        monkeypatch.setattr(where + "ENDPOINT", served.endpoint)
        template = served.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(where + "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(where + "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(where + "HF_HUB_OFFLINE", False)
        monkeypatch.setattr("time.sleep", lambda _: None)  # the client tries again and again
        fetch.cache_clear()
        yield served
        fetch.cache_clear()


@pytest.fixture
def pinned(hub: Hub, run: Path) -> str:
    """The address of the finished run's model, with its commit."""
    return f"hf://me/lungs@{hub.add('me/lungs', run / 'best')}"


def anew(hub: Hub) -> None:
    """Forget what this process knows, as the next one would."""
    fetch.cache_clear()
    hub.asked.clear()


class TestAModelThatIsThere:
    def test_predicts_as_the_folder_does(self, pinned: str, run: Path) -> None:
        image = np.random.default_rng(0).integers(-1000, 400, (40, 50)).astype(np.int16)
        ours, theirs = Predictor.load(run), Predictor.load(pinned)
        assert np.array_equal(theirs.probabilities(image), ours.probabilities(image))
        assert theirs.weights_sha256 == ours.weights_sha256
        assert (theirs.address, ours.address) == (pinned, "")

    def test_pinned_it_is_fetched_once_and_nothing_is_warned_of(
        self, hub: Hub, pinned: str, run: Path
    ) -> None:
        fetch(pinned)
        got = [asked for asked in hub.asked if asked.startswith("GET")]
        assert {asked.rsplit("/", 1)[1] for asked in got} == {
            "lungunet.json",
            "config.json",
            WEIGHTS,
        }
        anew(hub)
        hub.breaks = True
        assert load_model(pinned).contract == load_model(run).contract
        assert hub.asked == []

    @pytest.mark.parametrize("address", ["hf://me/lungs", "hf://me/lungs@main"])
    def test_of_a_branch_the_newest_commit_is_taken_and_named_once(
        self, hub: Hub, pinned: str, own_run: Path, address: str
    ) -> None:
        with pytest.warns(LungUNetWarning, match=f"To get the same again, write {pinned}$"):
            assert fetch(address).address == pinned
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert fetch(address).address == pinned
        (own_run / "best" / "README.md").write_text("Other words.")
        newer = hub.add("me/lungs", own_run / "best")
        anew(hub)
        with pytest.warns(LungUNetWarning, match=f"main is {newer} now"):
            assert fetch(address).folder.name == newer

    def test_a_branch_that_cannot_be_asked_is_what_it_was(self, hub: Hub, pinned: str) -> None:
        with pytest.warns(LungUNetWarning, match="main is "):
            fetch("hf://me/lungs")
        anew(hub)
        hub.breaks = True
        with pytest.warns(LungUNetWarning, match="main was .*; the hub could not be reached"):
            assert fetch("hf://me/lungs").address == pinned

    def test_a_name_that_is_gone_is_an_error_although_the_cache_holds_it(
        self, hub: Hub, pinned: str
    ) -> None:
        with pytest.warns(LungUNetWarning):
            fetch("hf://me/lungs")
        anew(hub)
        del hub.models["me/lungs"]
        with pytest.raises(ModelError, match="does not know it"):
            fetch("hf://me/lungs")

    def test_joined_with_another(self, pinned: str, run: Path) -> None:
        predictor = Predictor.load(f"{pinned} + {run}")
        assert len(predictor.segmenter.members) == 2
        assert predictor.address == f"{pinned}+{run}"

    def test_nothing_but_its_files_is_fetched(self, hub: Hub, run: Path, tmp_path: Path) -> None:
        """However large the rest is."""
        shutil.copytree(run / "best", tmp_path / "all")
        (tmp_path / "all" / "pytorch_model.bin").write_bytes(b"pickle")
        commit = hub.add("me/all", tmp_path / "all")
        hub.models["me/all"].sizes["pytorch_model.bin"] = 10 * 2**30
        folder = fetch(f"hf://me/all@{commit}").folder
        assert {path.name for path in folder.iterdir()} == {"lungunet.json", "config.json", WEIGHTS}
        assert not any(".bin" in asked for asked in hub.asked)


class TestErrors:
    def message(self, model: str, kind: type[ModelError] = ModelError) -> str:
        with pytest.raises(kind) as caught:
            Predictor.load(model)
        assert type(caught.value) is kind
        assert caught.value.where == model
        return caught.value.message

    @pytest.mark.parametrize(
        "address", ["hf://", "hf://lungs", "hf://me/lungs/best", "hf://me/lungs@", "hf://me/a b"]
    )
    def test_no_address(self, hub: Hub, address: str) -> None:
        assert "Write hf://OWNER/NAME@REVISION" in self.message(address)
        assert hub.asked == []

    def test_a_name_that_cannot_be(self, hub: Hub) -> None:
        assert "no name that the hub can have" in self.message("hf://me/lungs--")

    def test_nobody_answers(self, hub: Hub, pinned: str, monkeypatch: pytest.MonkeyPatch) -> None:
        hub.breaks = True
        said = self.message(pinned, WeightsUnavailableError)
        assert "the hub cannot be reached (500)" in said
        assert "copy the cache" in said
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        assert "(OfflineModeIsEnabled)" in self.message(pinned, WeightsUnavailableError)

    def test_unknown_or_private(self, hub: Hub) -> None:
        assert "Check the name; for one that is private log in" in self.message("hf://me/none")

    @pytest.mark.parametrize(
        ("refusal", "said"),
        [
            ((401, "RepoNotFound"), "does not know it, or does not show it"),
            ((403, "GatedRepo"), "its owner wants to be asked"),
            ((403, ""), "refuses (403)"),
            ((429, ""), "refuses (429)"),
        ],
    )
    def test_refused(self, hub: Hub, pinned: str, refusal: tuple[int, str], said: str) -> None:
        hub.models["me/lungs"].refusal = refusal
        assert said in self.message(pinned)

    @pytest.mark.parametrize("revision", ["v2", "0" * 40, "refs/pr/1"])
    def test_no_such_revision(self, hub: Hub, pinned: str, revision: str) -> None:
        said = self.message(f"hf://me/lungs@{revision}")
        assert said.startswith(f"there is no revision '{revision}'.")

    def test_a_model_of_smp_alone(self, hub: Hub, run: Path) -> None:
        names = ("config.json", WEIGHTS)
        commit = hub.add("me/plain", {name: (run / "best" / name).read_bytes() for name in names})
        said = self.message(f"hf://me/plain@{commit}")
        assert said.startswith("lungunet.json missing: not a model folder of lungunet")
        assert "'hf download me/plain --local-dir DIR'" in said
        assert not any(WEIGHTS in asked for asked in hub.asked)

    def test_pickles(self, hub: Hub, run: Path) -> None:
        about = (run / "best" / "lungunet.json").read_bytes()
        files = {"lungunet.json": about, "config.json": b"{}", "pytorch_model.bin": b"pickle"}
        commit = hub.add("me/old", files)
        said = self.message(f"hf://me/old@{commit}")
        assert said.startswith(f"{WEIGHTS} missing: no weights that can be read safely")
        assert "pytorch_model.bin could run code and is not read" in said

    def test_a_whole_run(self, hub: Hub, run: Path) -> None:
        commit = hub.add("me/run", run)
        assert "push the folder best alone" in self.message(f"hf://me/run@{commit}")

    @pytest.mark.parametrize(("name", "size"), [(WEIGHTS, 10 * 2**30), ("lungunet.json", 2**21)])
    def test_too_large(self, hub: Hub, pinned: str, name: str, size: int) -> None:
        hub.models["me/lungs"].sizes[name] = size
        assert said_of_size(name, size) in self.message(pinned)
        assert not any(asked.startswith("GET") and name in asked for asked in hub.asked)

    def test_damaged_on_the_hub(self, hub: Hub, run: Path, tmp_path: Path) -> None:
        shutil.copytree(run / "best", tmp_path / "damaged")
        (tmp_path / "damaged" / WEIGHTS).write_bytes(b"no weights")
        commit = hub.add("me/damaged", tmp_path / "damaged")
        with pytest.raises(ModelError, match="damaged, or no safetensors file"):
            Predictor.load(f"hf://me/damaged@{commit}")

    def test_a_cache_that_cannot_be_written(
        self, pinned: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_bytes(b"")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "file"))
        assert "Let HF_HOME name another folder" in self.message(pinned)


def said_of_size(name: str, size: int) -> str:
    return f"{name} has {size / 1e6:.0f} MB"


@pytest.mark.filterwarnings("always::lungunet.errors.LungUNetWarning")
class TestVerbs:
    def test_predict_keeps_the_address_and_goes_on_from_a_folder(
        self, run_cli, pinned: str, run: Path, phantoms: tuple[Path, Path], tmp_path: Path
    ) -> None:
        address = pinned.split("@")[0]
        done = run_cli("predict", address, phantoms[0], "--out", tmp_path / "m")
        assert done.code == 0
        assert f"lungunet: {address}: main is " in done.err
        assert f"write {pinned}\n" in done.err
        first = (tmp_path / "m" / "predicted.jsonl").read_text().splitlines()[0]
        assert json.loads(first)["made_by"]["address"] == pinned
        again = ("predict", run, phantoms[0], "--out", tmp_path / "m", "--skip-existing")
        assert run_cli(*again).code == 0

    def test_evaluate_writes_the_commit(
        self, run_cli, pinned: str, data: Path, tmp_path: Path
    ) -> None:
        done = run_cli("evaluate", pinned.split("@")[0], data, "--out", tmp_path / "scores")
        assert done.code == 0, done.err
        scores = json.loads((tmp_path / "scores" / "scores.json").read_text())
        assert scores["model"] == pinned

    def test_evaluate_writes_nothing_into_the_cache(
        self, run_cli, hub: Hub, pinned: str, data: Path
    ) -> None:
        folder = fetch(pinned).folder
        (folder / "best").mkdir()  # as somebody else may have fetched the whole
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
        assert run_cli("evaluate", pinned, data).code == 0
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before

    def test_export(self, run_cli, pinned: str, tmp_path: Path) -> None:
        done = run_cli("export", pinned, "--out", tmp_path / "a.onnx")
        assert done.code == 0, done.err

    def test_weights_of_a_training(
        self, run_cli, hub: Hub, pinned: str, data: Path, tmp_path: Path
    ) -> None:
        out, address = tmp_path / "run", pinned.split("@")[0]
        quick = ("--size", 32, "--epochs", 1, "--batch-size", 2, "--workers", 0)
        done = run_cli("train", data, "--out", out, *quick, "--weights", address)
        assert done.code == 0, done.err
        assert done.err.count(pinned) == 1
        assert json.loads((out / "environment.json").read_text())["weights"] == pinned
        assert lungunet.RunConfig.of_run(out).weights == pinned
        shutil.rmtree(tmp_path / "cache")
        anew(hub)
        assert run_cli("train", "--resume", out, "--epochs", 2).code == 0
        assert hub.asked == []

    def test_errors_have_no_traceback(self, run_cli, hub: Hub, tmp_path: Path) -> None:
        done = run_cli("predict", "hf://me/none", tmp_path, "--out", tmp_path / "m")
        assert done.code == 1
        assert done.err.startswith("lungunet: hf://me/none: the hub does not know it")
