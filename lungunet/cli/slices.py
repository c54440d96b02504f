"""``lungunet slices``: slices to train on, from scans and their masks."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lungunet.cli import console
from lungunet.cli.options import Json, LabelThreshold, Overwrite, Series, refuse_existing
from lungunet.errors import ConfigError, DataError, counted

if TYPE_CHECKING:
    import numpy as np

    from lungunet.data.codec import LabelCodec
    from lungunet.data.manifest import Pair
    from lungunet.volumes.volume import Volume


def slices(
    scans: Annotated[
        Path,
        typer.Argument(
            help="Folder of scans (NIfTI, NRRD, MHA, folders of DICOM), or one.", metavar="SCANS"
        ),
    ],
    masks: Annotated[
        Path, typer.Argument(help="Folder of masks; paired by name. Or one.", metavar="MASKS")
    ],
    folder: Annotated[Path, typer.Argument(help="Folder for the slices.", metavar="DIR")],
    every: Annotated[int, typer.Option(help="Take one slice of so many.", min=1)] = 1,
    max_empty: Annotated[
        float,
        typer.Option(
            help="Share of a scan's slices that may be without lung; 1 keeps all.", min=0, max=1
        ),
    ] = 0.1,
    group: Annotated[
        str | None,
        typer.Option(
            help="Which scans are of one patient: a regular expression on their names (its first "
            "group is the patient), or a CSV with the columns name and patient. Without it, each "
            "scan is a patient."
        ),
    ] = None,
    labels: Annotated[
        str, typer.Option(help="Mask values in class order: 0,1 or 0,255 or 0,3=1,4=1.")
    ] = "0,1",
    label_threshold: LabelThreshold = -1,
    series: Series = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Cut axial slices from scans and masks: int16 TIFF in HU, and PNG with 0 and 255.

    DIR/groups.csv says which slices are of one patient, so that a split keeps them together. A scan
    that cannot be used is named and skipped, and the exit code is 1 in the end.

    Examples: `lungunet slices scans masks sliced --every 5` |
    `lungunet split sliced/images sliced/masks data --group sliced/groups.csv`
    """
    from lungunet.data.codec import LabelCodec
    from lungunet.data.manifest import write_manifest
    from lungunet.volumes.slicing import (
        check_settings,
        find_volume_pairs,
        write_groups,
        write_slices,
    )

    codec = LabelCodec.parse(labels, threshold=label_threshold if label_threshold >= 0 else None)
    check_settings(codec, every=every, max_empty=max_empty)
    pairs = find_volume_pairs(scans, masks)
    patients = _patients(list(pairs), group)
    manifest, groups_file = folder / "pairs.txt", folder / "groups.csv"
    old = [file for file in folder.glob("*/*_z-[0-9]*") if file.parent.name in ("images", "masks")]
    old += [path for path in (manifest, groups_file) if path.exists()]
    refuse_existing(old, overwrite)
    written: list[Pair] = []
    groups: dict[str, str] = {}
    failed: list[str] = []
    rows = []
    for name, pair in console.progress_bar(pairs.items(), desc="slices", total=len(pairs)):
        try:
            scan, classes, indices = _choose(
                pair, name, codec, series=series, every=every, max_empty=max_empty
            )
            while indices and old:  # beside new slices they would be trained on
                old.pop().unlink()
            new = write_slices(scan, classes, indices, folder, codec=codec)
        except (DataError, ConfigError) as err:
            failed.append(str(err))
            console.warn(f"lungunet: skipped {err}")
            continue
        written += new
        groups |= {file.name: patients[name] for file in new}
        rows.append((name, len(new)))
    if written:
        write_manifest(manifest, written)
        write_groups(groups_file, groups)
    _report(folder, rows, failed, as_json)
    if failed:
        raise DataError(
            f"{len(failed)} of {counted(len(pairs), 'scan')} skipped. Mend or remove them."
        )


def _patients(names: list[str], rule: str | None) -> dict[str, str]:
    from lungunet.data.manifest import Pair
    from lungunet.data.split import read_groups

    if rule is None:
        return {name: name for name in names}
    return read_groups([Pair(Path(f"{name}.nii")) for name in names], rule)


def _choose(
    pair: "Pair", name: str, codec: "LabelCodec", *, series: str | None, **how: Any
) -> "tuple[Volume, np.ndarray, Sequence[int]]":
    from lungunet.volumes.slicing import choose_slices
    from lungunet.volumes.volume import read_volume

    assert pair.mask is not None
    scan = replace(read_volume(pair.image, series=series), name=name)
    return scan, *choose_slices(scan, read_volume(pair.mask), codec=codec, **how)


def _report(folder: Path, rows: list[tuple[str, int]], failed: list[str], as_json: bool) -> None:
    if as_json:
        scans = [{"name": name, "slices": count} for name, count in rows]
        console.say_json({"folder": str(folder), "scans": scans, "failed": failed})
        return
    console.show_table(("scan", "slices"), rows)
    images, masks, groups = folder / "images", folder / "masks", folder / "groups.csv"
    command = console.command("split", images, masks, "data", "--group", groups)
    total = sum(count for _, count in rows)
    console.say(f"\n{total} slices in {folder}" if total else "\nno slice was written")
    if total:
        console.say(f"next:   {command}")
