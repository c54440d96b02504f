"""The public API: exactly these names, lazily, and typed."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import lungunet

NAMES = """
    Audit CaseScore ConfigError ConfusionMeter CrossEntropyDiceLoss DataError EncoderInfo
    EpochResult EpochSampler Finding FoldResult GeometryError InputContract Interval LRRange
    LUNG_CODEC LUNG_WINDOW LabelCodec LabelError LungCTDataset LungUNetError LungUNetWarning
    MaskFolder Mean Measured Measurement MissingExtraError ModelError Overlap Pair Plausibility
    Prediction Predictor RunConfig SavedModel ScoreCard Segmenter Split SplitError
    SurfaceDistances Suspect TrainConfig Trainer Volume VolumeMeasurement VolumePrediction
    WeightsUnavailableError Window __version__ audit build_unet check_slice check_volume
    cross_validate decode_image draw_montage draw_overlay encode_mask evaluate export_onnx
    find_pairs find_volume_pairs find_volumes fold_pairs list_encoders load_model make_loader
    measure_slice measure_volume overlap phantom_slice predict_volume prepare_pairs put_on_grid
    read_groups read_image read_manifest read_mask read_patients read_split read_volume
    refine_volume save_model segment_lungs slice_volume split_pairs split_sides
    surface_distances train_run train_transform write_image write_manifest write_mask
    write_measurements write_phantoms write_picture write_report write_split write_volume
""".split()  # noqa: SIM905 - as a list it takes a line per name


def test_public_names_are_these() -> None:
    assert lungunet.__all__ == sorted(NAMES)
    assert dir(lungunet) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(lungunet, name)
    if callable(value):
        assert value.__doc__


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'build_vnet'"):
        _ = lungunet.build_vnet


def test_types_and_lazy_names_agree() -> None:
    """What type checkers see under TYPE_CHECKING is what __getattr__ delivers."""
    source = Path(lungunet.__file__).read_text(encoding="utf-8")
    typed = {
        line.split(" as ")[1].strip()
        for line in source.splitlines()
        if line.startswith("    from ")
    }
    assert typed == set(NAMES) - {"__version__"}
    for name in typed:
        home = getattr(lungunet, name)
        module = getattr(home, "__module__", None)
        if module:
            assert getattr(importlib.import_module(module), name) is home


def in_fresh_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_lungunet_imports_the_standard_library_alone() -> None:
    loaded = in_fresh_python(
        "import sys; before = set(sys.modules); import lungunet;"
        "new = {m.split('.')[0] for m in set(sys.modules) - before};"
        "print(sorted(new - set(sys.stdlib_module_names) - {'lungunet'}))"
    )
    assert loaded == "[]"


def test_help_needs_no_torch() -> None:
    loaded = in_fresh_python(
        "import sys, contextlib; from lungunet.cli import main; sys.argv = ['lungunet', '--help']\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(None): main()\n"
        "print({'torch', 'numpy', 'cv2', 'albumentations'} & set(sys.modules))"
    )
    assert loaded == "set()"
