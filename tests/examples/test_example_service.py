"""The service answers over HTTP with a mask or measures, and refuses in our words."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from fastapi.testclient import TestClient
from test_example_scripts import load

import lungunet


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(load("predict_service").app) as made:
        yield made


@pytest.fixture
def slice_path(phantoms: tuple[Path, Path]) -> Path:
    return phantoms[0] / "patient-001_slice-01.tif"


def post(client: TestClient, where: str, path: Path, name: str | None = None):
    return client.post(where, files={"file": (name or path.name, path.read_bytes())})


def test_a_mask_comes_back_as_png(client: TestClient, slice_path: Path) -> None:
    answer = post(client, "/mask", slice_path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    mask = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_UNCHANGED)
    predictor = lungunet.Predictor.load("threshold")
    np.testing.assert_array_equal(mask, predictor.predict(lungunet.read_image(slice_path)))
    assert 255 in mask


def test_measures_come_back_as_json(client: TestClient, slice_path: Path) -> None:
    image = lungunet.read_image(slice_path)
    lung = lungunet.segment_lungs(image) > 0
    assert post(client, "/measures", slice_path).json() == {
        "height_px": 48,
        "width_px": 48,
        "area_px": int(lung.sum()),
        "mean_hu": pytest.approx(image[lung].mean(), abs=1e-6),
    }


def test_no_lung_is_no_number(client: TestClient, tmp_path: Path) -> None:
    lungunet.write_image(tmp_path / "air.tif", np.full((40, 48), -1000, np.int16))
    answer = post(client, "/measures", tmp_path / "air.tif").json()
    assert answer["area_px"] == 0
    assert answer["mean_hu"] is None


def test_a_model_of_yours(run: Path, slice_path: Path) -> None:
    with TestClient(load("predict_service").make_app(str(run))) as client:
        answer = post(client, "/mask", slice_path)
    mask = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_UNCHANGED)
    predictor = lungunet.Predictor.load(run)
    np.testing.assert_array_equal(mask, predictor.predict(lungunet.read_image(slice_path)))


def test_damaged_uploads_are_refused_by_their_own_name(client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"not an image")
    answer = post(client, "/mask", tmp_path / "x", "../../etc/slice 7.tif")
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("slice 7.tif: not a readable image")
    assert "tmp" not in answer.text


def test_slices_that_do_not_fit_the_model_are_refused(client: TestClient, tmp_path: Path) -> None:
    lungunet.write_image(tmp_path / "grey.png", np.zeros((48, 48), np.uint8))
    answer = post(client, "/mask", tmp_path / "grey.png")
    assert answer.status_code == 422
    assert "uint8" in answer.json()["error"]


def test_no_file_is_a_bad_request(client: TestClient) -> None:
    assert client.post("/mask").status_code == 422


def test_a_bad_model_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(lungunet.ModelError, match="no such folder"):
        load("predict_service").make_app(str(tmp_path / "nothing"))
