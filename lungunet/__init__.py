"""Lung segmentation in CT: from two folders of slices and masks to a mask you can trust.

Importing this module imports the standard library alone; every name below is fetched from its
module when it is first used (PEP 562).
"""

from importlib import import_module

__version__ = "0.1.0"

# Type checkers take this name as true; importing it from typing takes longer than all the rest.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from lungunet.data.codec import LUNG_CODEC as LUNG_CODEC
    from lungunet.data.codec import LabelCodec as LabelCodec
    from lungunet.data.contract import InputContract as InputContract
    from lungunet.data.ct import decode_image as decode_image
    from lungunet.data.ct import encode_mask as encode_mask
    from lungunet.data.ct import read_image as read_image
    from lungunet.data.ct import read_mask as read_mask
    from lungunet.data.ct import write_image as write_image
    from lungunet.data.ct import write_mask as write_mask
    from lungunet.data.ct import write_picture as write_picture
    from lungunet.data.dataset import LungCTDataset as LungCTDataset
    from lungunet.data.loader import EpochSampler as EpochSampler
    from lungunet.data.loader import make_loader as make_loader
    from lungunet.data.manifest import Pair as Pair
    from lungunet.data.manifest import find_pairs as find_pairs
    from lungunet.data.manifest import read_manifest as read_manifest
    from lungunet.data.manifest import write_manifest as write_manifest
    from lungunet.data.montage import draw_montage as draw_montage
    from lungunet.data.overlay import draw_overlay as draw_overlay
    from lungunet.data.phantom import phantom_slice as phantom_slice
    from lungunet.data.phantom import write_phantoms as write_phantoms
    from lungunet.data.prepare import prepare_pairs as prepare_pairs
    from lungunet.data.slicing import find_volume_pairs as find_volume_pairs
    from lungunet.data.slicing import slice_volume as slice_volume
    from lungunet.data.split import Split as Split
    from lungunet.data.split import fold_pairs as fold_pairs
    from lungunet.data.split import read_groups as read_groups
    from lungunet.data.split import read_patients as read_patients
    from lungunet.data.split import read_split as read_split
    from lungunet.data.split import split_pairs as split_pairs
    from lungunet.data.split import write_split as write_split
    from lungunet.data.transforms import train_transform as train_transform
    from lungunet.data.volume import Volume as Volume
    from lungunet.data.volume import put_on_grid as put_on_grid
    from lungunet.data.volume import read_volume as read_volume
    from lungunet.data.volume import write_volume as write_volume
    from lungunet.data.volume_files import find_volumes as find_volumes
    from lungunet.data.window import LUNG_WINDOW as LUNG_WINDOW
    from lungunet.data.window import Window as Window
    from lungunet.errors import ConfigError as ConfigError
    from lungunet.errors import DataError as DataError
    from lungunet.errors import GeometryError as GeometryError
    from lungunet.errors import LabelError as LabelError
    from lungunet.errors import LungUNetError as LungUNetError
    from lungunet.errors import LungUNetWarning as LungUNetWarning
    from lungunet.errors import MissingExtraError as MissingExtraError
    from lungunet.errors import ModelError as ModelError
    from lungunet.errors import SplitError as SplitError
    from lungunet.errors import WeightsUnavailableError as WeightsUnavailableError
    from lungunet.evaluation.audit import Audit as Audit
    from lungunet.evaluation.audit import Suspect as Suspect
    from lungunet.evaluation.audit import audit as audit
    from lungunet.evaluation.cases import CaseScore as CaseScore
    from lungunet.evaluation.crossval import FoldResult as FoldResult
    from lungunet.evaluation.crossval import cross_validate as cross_validate
    from lungunet.evaluation.evaluate import evaluate as evaluate
    from lungunet.evaluation.file_checks import Finding as Finding
    from lungunet.evaluation.masks import MaskFolder as MaskFolder
    from lungunet.evaluation.report import write_report as write_report
    from lungunet.evaluation.scorecard import ScoreCard as ScoreCard
    from lungunet.inference.measure import Measurement as Measurement
    from lungunet.inference.measure import VolumeMeasurement as VolumeMeasurement
    from lungunet.inference.measure import measure_slice as measure_slice
    from lungunet.inference.measure import measure_volume as measure_volume
    from lungunet.inference.measure import write_measurements as write_measurements
    from lungunet.inference.predictor import Prediction as Prediction
    from lungunet.inference.predictor import Predictor as Predictor
    from lungunet.inference.predictor import Segmenter as Segmenter
    from lungunet.inference.quality import Plausibility as Plausibility
    from lungunet.inference.quality import check_slice as check_slice
    from lungunet.inference.quality_volume import check_volume as check_volume
    from lungunet.inference.refine import refine_volume as refine_volume
    from lungunet.inference.scans import VolumePrediction as VolumePrediction
    from lungunet.inference.scans import predict_volume as predict_volume
    from lungunet.inference.sides import split_sides as split_sides
    from lungunet.inference.threshold import segment_lungs as segment_lungs
    from lungunet.metrics.bootstrap import Interval as Interval
    from lungunet.metrics.overlap import ConfusionMeter as ConfusionMeter
    from lungunet.metrics.overlap import Mean as Mean
    from lungunet.metrics.overlap import Overlap as Overlap
    from lungunet.metrics.overlap import overlap as overlap
    from lungunet.metrics.surface import SurfaceDistances as SurfaceDistances
    from lungunet.metrics.surface import surface_distances as surface_distances
    from lungunet.models.encoders import EncoderInfo as EncoderInfo
    from lungunet.models.encoders import list_encoders as list_encoders
    from lungunet.models.folder import SavedModel as SavedModel
    from lungunet.models.folder import load_model as load_model
    from lungunet.models.folder import save_model as save_model
    from lungunet.models.losses import CrossEntropyDiceLoss as CrossEntropyDiceLoss
    from lungunet.models.onnx import export_onnx as export_onnx
    from lungunet.models.unet import build_unet as build_unet
    from lungunet.training.config import RunConfig as RunConfig
    from lungunet.training.config import TrainConfig as TrainConfig
    from lungunet.training.lr_finder import LRRange as LRRange
    from lungunet.training.run import train_run as train_run
    from lungunet.training.tracking import EpochResult as EpochResult
    from lungunet.training.tracking import Measured as Measured
    from lungunet.training.trainer import Trainer as Trainer

_HOMES = {
    "data.codec": ("LUNG_CODEC", "LabelCodec"),
    "data.contract": ("InputContract",),
    "data.ct": (
        *("decode_image", "encode_mask", "read_image", "read_mask"),
        *("write_image", "write_mask", "write_picture"),
    ),
    "data.dataset": ("LungCTDataset",),
    "data.loader": ("EpochSampler", "make_loader"),
    "data.manifest": ("Pair", "find_pairs", "read_manifest", "write_manifest"),
    "data.montage": ("draw_montage",),
    "data.overlay": ("draw_overlay",),
    "data.phantom": ("phantom_slice", "write_phantoms"),
    "data.prepare": ("prepare_pairs",),
    "data.slicing": ("find_volume_pairs", "slice_volume"),
    "data.split": (
        *("Split", "fold_pairs", "read_groups", "read_patients", "read_split"),
        *("split_pairs", "write_split"),
    ),
    "data.transforms": ("train_transform",),
    "data.volume": ("Volume", "put_on_grid", "read_volume", "write_volume"),
    "data.volume_files": ("find_volumes",),
    "data.window": ("LUNG_WINDOW", "Window"),
    "errors": (
        *("ConfigError", "DataError", "GeometryError", "LabelError", "LungUNetError"),
        *("LungUNetWarning", "MissingExtraError", "ModelError", "SplitError"),
        "WeightsUnavailableError",
    ),
    "evaluation.audit": ("Audit", "Suspect", "audit"),
    "evaluation.cases": ("CaseScore",),
    "evaluation.crossval": ("FoldResult", "cross_validate"),
    "evaluation.evaluate": ("evaluate",),
    "evaluation.file_checks": ("Finding",),
    "evaluation.masks": ("MaskFolder",),
    "evaluation.report": ("write_report",),
    "evaluation.scorecard": ("ScoreCard",),
    "inference.measure": (
        *("Measurement", "VolumeMeasurement", "measure_slice", "measure_volume"),
        "write_measurements",
    ),
    "inference.predictor": ("Prediction", "Predictor", "Segmenter"),
    "inference.quality": ("Plausibility", "check_slice"),
    "inference.quality_volume": ("check_volume",),
    "inference.scans": ("VolumePrediction", "predict_volume"),
    "inference.refine": ("refine_volume",),
    "inference.sides": ("split_sides",),
    "inference.threshold": ("segment_lungs",),
    "metrics.bootstrap": ("Interval",),
    "metrics.overlap": ("ConfusionMeter", "Mean", "Overlap", "overlap"),
    "metrics.surface": ("SurfaceDistances", "surface_distances"),
    "models.encoders": ("EncoderInfo", "list_encoders"),
    "models.folder": ("SavedModel", "load_model", "save_model"),
    "models.losses": ("CrossEntropyDiceLoss",),
    "models.onnx": ("export_onnx",),
    "models.unet": ("build_unet",),
    "training.config": ("RunConfig", "TrainConfig"),
    "training.run": ("train_run",),
    "training.lr_finder": ("LRRange",),
    "training.tracking": ("EpochResult", "Measured"),
    "training.trainer": ("Trainer",),
}
_HOME_OF = {name: f"lungunet.{home}" for home, names in _HOMES.items() for name in names}

__all__ = sorted([*_HOME_OF, "__version__"])


def __getattr__(name: str) -> object:
    """Fetch a public name from its module (PEP 562)."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'lungunet' has no attribute '{name}'")
    value: object = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return list(__all__)
