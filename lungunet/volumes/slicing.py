"""Slices to train on, cut from scans and their masks."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lungunet.data.codec import LabelCodec, is_lung, say_no_lung
from lungunet.data.ct import write_image, write_mask
from lungunet.data.files import refuse_existing, write_csv
from lungunet.data.hu import require_hu
from lungunet.data.kinds import check_kind, plain_value
from lungunet.data.made_by import read_lung_codec
from lungunet.data.manifest import Pair, image_names, without_masks, write_manifest
from lungunet.data.split import read_groups
from lungunet.errors import ConfigError, DataError, LungUNetWarning, counted, listed
from lungunet.progress import Progress, silent
from lungunet.volumes.formats import find_volumes
from lungunet.volumes.grid import are_nearly_square
from lungunet.volumes.scan import Scan
from lungunet.volumes.series import several
from lungunet.volumes.volume import Volume, put_on_grid, read_volume

_INT16 = np.iinfo(np.int16)
_ZERO_ONE = LabelCodec({0: 0, 1: 1})


@dataclass(frozen=True)
class SliceConfig:
    """Which slices of a scan are cut.

    Parameters
    ----------
    codec : of the masks' values. None takes what their folder says, if they were predicted into it,
        with left and right as one lung; else 0 and 1
    every : takes one slice of so many
    max_empty : in [0, 1]; at most this share of what is written is without lung, spread evenly.
        0 leaves them all out, 1 keeps them all

    Raises
    ------
    ConfigError
        When a number is out of range, or the codec cannot write a class back.
    """

    codec: LabelCodec | None = None
    every: int = 1
    max_empty: float = 0.1

    def __post_init__(self) -> None:
        """Refuse what could not be done with any scan."""
        check_kind("every", plain_value(self.every), int, "Give a whole number, 1 or more.")
        check_kind("codec", self.codec, LabelCodec | None, "Give LabelCodec.parse('0,255').")
        if self.every < 1:
            raise ConfigError(
                "must be at least 1. 1 takes all slices.", where=f"every={self.every}"
            )
        if not 0 <= self.max_empty <= 1:
            raise ConfigError(f"max_empty={self.max_empty:g}: a share is in [0, 1]. 0.1 is usual.")
        if self.codec is not None:  # says which labels share a class
            self.codec.for_prediction.decode(np.empty((0, 0), np.uint8))


@dataclass(frozen=True)
class SlicedScan:
    """What was cut from one scan.

    Parameters
    ----------
    name : of the scan
    pairs : the new files; none where it holds no lung or could not be used
    error : why it could not be used; None where it could
    codec : how its mask is read
    """

    name: str
    pairs: tuple[Pair, ...] = ()
    error: DataError | ConfigError | None = None
    codec: LabelCodec = _ZERO_ONE


@dataclass(frozen=True)
class ScanPair:
    """A scan and its mask; the mask is None where there is none of its name."""

    image: Scan
    mask: Scan | None = None

    def require_mask(self) -> Scan:
        """Return the mask, where there must be one.

        Raises
        ------
        DataError
            When there is none.
        """
        if self.mask is None:
            raise DataError(
                f"no mask is called {self.image.name}. Add it, or leave out the scan.",
                where=self.image,
            )
        return self.mask


def find_volume_pairs(
    scans: str | Path, masks: str | Path, *, names: str | None = None, series: str | None = None
) -> dict[str, ScanPair]:
    """Pair scans with masks by name, as :func:`find_pairs` does slices.

    A scan and a mask that are named themselves, and not by a folder that holds them, are a pair
    whatever their names.

    Parameters
    ----------
    scans : a volume file, or a folder as :func:`find_volumes` takes it
    masks : a volume file, or a folder of them
    names : how masks are called beside their scans, as for :func:`find_pairs`
    series : of DICOM this one alone, see :func:`find_volumes`

    Returns
    -------
    dict
        Name of each scan to scan and mask, sorted. A scan without a mask is there too: so are those
        for which :func:`predict_scans` could write none.

    Raises
    ------
    DataError
        When a folder holds no volume, a mask has no scan, or no scan a mask.
    """
    images, labels = find_volumes([scans], series=series), find_volumes([masks])
    alone = len(images) == len(labels) == 1
    if alone and _is_named(scans, images[0]) and _is_named(masks, labels[0]):
        return {images[0].name: ScanPair(images[0], labels[0])}
    images = _without_masks(images, labels, names)
    called = image_names(
        [image.name for image in images], [mask.name for mask in labels], names=names
    )
    by_name = {called.get(mask.name, mask.name): mask for mask in labels}
    pairs: dict[str, ScanPair] = {}
    for image in images:
        # Without the others of its folder a series has a shorter name, or they have longer ones.
        short, long = image.name.removesuffix(f"_{image.id}"), f"{image.name}_{image.id}"
        if image.name not in by_name and long not in by_name and short in by_name:
            members = [scan for scan in images if scan.path == image.path]
            pairs[short] = ScanPair(several(members, image.path, short), by_name[short])
        else:
            pairs[image.name] = ScanPair(image, by_name.get(image.name, by_name.get(long)))
    used = [pair.mask for pair in pairs.values()]
    spare = [mask for mask in labels if mask not in used] if series is None else []
    if spare or not any(used):
        lone = [pair.image for pair in pairs.values() if pair.mask is None]
        problems = [f"{image}: no mask is called {image.name}" for image in lone]
        problems += [f"{mask}: no scan is called {mask.name}" for mask in spare]
        way = "Say"
        if alone:
            way = f"Where they are a pair, give {images[0]} and {labels[0]} themselves; else say"
        raise DataError(
            f"{scans} and {masks} do not pair up, "
            f"{counted(len(problems), 'problem')}:\n  {listed(problems)}\n"
            f"{way} how masks are called beside their scans, as names='*=*_mask', or "
            "rename or remove them; nothing was written."
        )
    return dict(sorted(pairs.items()))


def _without_masks(images: list[Scan], masks: list[Scan], names: str | None) -> list[Scan]:
    """Leave out masks that lie among their scans."""
    named = [[(scan.name, Path(scan.name)) for scan in some] for some in (images, masks)]
    left = {name for name, _ in without_masks(*named, names=names)}
    return [scan for scan in images if scan.name in left]


def _is_named(source: str | Path, scan: Scan) -> bool:
    """Whether a source is the scan itself: a file, a folder of its slices, a study of a PACS."""
    return scan.remote is not None or Path(source).is_file() or scan.path == Path(source)


def slice_volume(
    scan: Volume,
    mask: Volume,
    folder: str | Path,
    *,
    codec: LabelCodec,
    every: int = 1,
    max_empty: float = 0.1,
) -> list[Pair]:
    """Write axial slices of a scan and its mask as ``images/NAME.tif`` and ``masks/NAME.png``.

    Slices are int16, HU; masks 0 and 255 for lung against background, else as ``codec`` has them.
    NAME is the name of the scan and the number of the slice, from 0 at the feet. A mask on another
    grid is put on the scan's, see :func:`put_on_grid`.

    Parameters
    ----------
    codec : of the mask's values
    every : takes one slice of so many
    max_empty : in [0, 1]; at most this share of what is written is without lung, spread evenly.
        0 leaves them all out, 1 keeps them all

    Returns
    -------
    list of Pair
        The new files; empty where the mask is and ``max_empty`` is below 1.

    Raises
    ------
    GeometryError
        When the mask lies elsewhere than the scan.
    LabelError
        When the mask holds a value outside the codec.
    DataError
        When the scan holds no HU.
    ConfigError
        When a number is out of range, or the codec cannot write a class back.
    """
    config = SliceConfig(codec, every, max_empty)
    classes, indices = _choose_slices(scan, mask, codec, config)
    return _write_slices(scan, classes, indices, folder, codec)


def slice_files(
    scans: str | Path,
    masks: str | Path,
    folder: str | Path,
    *,
    config: SliceConfig = SliceConfig(),
    group: str | None = None,
    names: str | None = None,
    series: str | None = None,
    resample: bool = False,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Iterator[SlicedScan]:
    """Cut slices from many scans, as :func:`slice_volume` does from one.

    Beside them ``folder/pairs.txt`` lists the pairs, and ``folder/groups.csv`` says which slices
    are of one patient, for :func:`read_groups`. Both are written when the loop ends, however it
    does. Nothing happens before the first scan is asked for.

    Parameters
    ----------
    scans, masks : as for :func:`find_volume_pairs`
    config : which slices
    group : which scans are of one patient, a rule for their names as :func:`read_groups` takes it;
        None: each scan is a patient
    names : how masks are called beside their scans, as for :func:`find_pairs`
    series : of DICOM this one alone, see :func:`find_volumes`
    resample : see :func:`read_volume`
    overwrite : replace slices of an earlier call. They go when the first new one comes, for beside
        new ones they would be trained on

    Yields
    ------
    SlicedScan
        One per scan; one that cannot be used has its error, and the others go on.

    Raises
    ------
    DataError
        When a folder holds no volume, or scans and masks do not pair up.
    ConfigError
        When output would replace files.
    SplitError
        When a scan has no patient.
    """
    codec = config.codec or _codec_of(masks)
    folder = Path(folder)
    pairs = find_volume_pairs(scans, masks, names=names, series=series)
    patients = {name: name for name in pairs}
    if group is not None:
        patients = read_groups([Pair(Path(f"{name}.nii")) for name in pairs], group)
    manifest, groups_file = folder / "pairs.txt", folder / "groups.csv"
    # By their endings: scans that are read may lie in these folders.
    old = [*folder.glob("images/*_z-[0-9]*.tif"), *folder.glob("masks/*_z-[0-9]*.png")]
    old += [path for path in (manifest, groups_file) if path.exists()]
    refuse_existing(old, overwrite)
    written: list[Pair] = []
    read, with_lung = 0, False
    groups: dict[str, str] = {}
    try:
        for name, pair in progress(pairs.items(), desc="slices", total=len(pairs)):
            try:
                labels = pair.require_mask()
                scan = replace(read_volume(pair.image, resample=resample), name=name)
                mask = read_volume(labels)
                classes, indices = _choose_slices(scan, mask, codec, config)
                read += 1
                with_lung = with_lung or bool(is_lung(classes).any())
                while indices and old:
                    old.pop().unlink()
                new = _write_slices(scan, classes, indices, folder, codec)
            except (DataError, ConfigError) as err:
                yield SlicedScan(name, error=err, codec=codec)
                continue
            written += new
            groups |= {file.name: patients[name] for file in new}
            yield SlicedScan(name, tuple(new), codec=codec)
    finally:
        if written:
            write_manifest(manifest, written)
            write_groups(groups_file, groups)
    if read and not with_lung:
        warnings.warn(f"{masks}: {say_no_lung(read, codec)}", LungUNetWarning, stacklevel=2)


def _codec_of(masks: str | Path) -> LabelCodec:
    """Return how masks are coded: as their folder says, with sides as one lung, else 0 and 1."""
    return read_lung_codec(masks) or _ZERO_ONE


def _choose_slices(
    scan: Volume, mask: Volume, codec: LabelCodec, config: SliceConfig
) -> tuple[np.ndarray, Sequence[int]]:
    """Return classes on the scan's grid, (D, H, W) uint8, and which slices to write, in order."""
    require_hu(scan.array, scan.path)
    _warn_of_oblong(scan)
    classes = codec.encode(put_on_grid(mask, scan), str(mask.path))
    candidates = np.arange(0, len(classes), config.every)
    has_lung = is_lung(classes[candidates]).any(axis=(1, 2))
    empty = candidates[~has_lung]
    if config.max_empty < 1:
        share = config.max_empty / (1 - config.max_empty)
        room = int(share * has_lung.sum() + 1e-9)  # 0.1 is a little less
        if room < len(empty):
            empty = empty[np.linspace(0, len(empty) - 1, room).round().astype(int)]
    return classes, np.sort(np.concatenate([candidates[has_lung], empty])).tolist()


def _warn_of_oblong(scan: Volume) -> None:
    y, x = scan.spacing_mm[1:]
    if not are_nearly_square((y, x)):
        warnings.warn(
            f"{scan.path}: pixels of {y:.3g}x{x:.3g} mm, {max(y, x) / min(y, x):.1f} times as long "
            "as wide. Its slices are squashed, and a model that learns from them sees scans with "
            "square pixels. Leave it out, or resample it first.",
            LungUNetWarning,
            stacklevel=4,
        )


def _write_slices(
    scan: Volume,
    classes: np.ndarray,
    indices: Sequence[int],
    folder: str | Path,
    codec: LabelCodec,
) -> list[Pair]:
    written = []
    for index in indices:
        name = f"{scan.name}_z-{index:04d}"
        pair = Pair(Path(folder, "images", f"{name}.tif"), Path(folder, "masks", f"{name}.png"))
        hu = scan.array[index]
        if hu.dtype != np.int16:
            hu = np.clip(np.rint(hu), _INT16.min, _INT16.max).astype(np.int16)
        write_image(pair.image, hu)
        write_mask(pair.require_mask(), codec.for_truth.decode(classes[index]))
        written.append(pair)
    return written


def write_groups(path: str | Path, groups: Mapping[str, str]) -> None:
    """Write the patient of each file stem as CSV, as :func:`read_groups` reads it."""
    rows = ({"name": name, "patient": patient} for name, patient in sorted(groups.items()))
    write_csv(path, rows, ("name", "patient"))
