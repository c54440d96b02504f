"""What jobs over many files share: the record, the part, the processes, the names of maps.

Knows neither slices nor scans.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from lungunet._version import __version__
from lungunet.data.codec import LabelCodec
from lungunet.data.files import json_text, plain
from lungunet.data.lock import claimed
from lungunet.errors import ConfigError
from lungunet.inference.crew import Crew, Sharing, Work, start_processes
from lungunet.inference.parts import Part, refuse_divided_otherwise
from lungunet.inference.predictor import Loading, Predictor
from lungunet.inference.record import Record
from lungunet.inference.segmenter import Segmenter

T = TypeVar("T")

ALONE = Sharing()


def part_of(sharing: Sharing) -> Part | None:
    """Return the part that is to be done; None for all."""
    return Part.parse(sharing.part) if sharing.part else None


def own(items: Sequence[T], keys: Sequence[str], part: Part | None) -> list[T]:
    """Return what is of a part."""
    if part is None:
        return list(items)
    return [item for item, key in zip(items, keys, strict=True) if part.takes(key)]


def start_crew(
    job: Callable[..., Any], predictor: Predictor, sharing: Sharing, *, most: int
) -> Crew:
    """Start the processes that share a job, which load the model by themselves.

    Raises
    ------
    ConfigError
        When they could not.
    """
    if predictor.loading is None:
        raise ConfigError(
            "processes load the model by themselves. Give a predictor that Predictor.load read "
            "from a path, or by a word.",
            where="sharing",
        )
    identity = (identify(predictor.segmenter), __version__)
    start = partial(_start, predictor.loading, identity, job)
    if sharing.ray is None:
        return Crew(start_processes(start, sharing.devices[: max(1, most)]))
    from lungunet.inference.ray_actors import start_actors

    return Crew(*start_actors(start, sharing.ray, cores=sharing.ray_cores, most=max(1, most)))


def _start(
    loading: Loading, identity: tuple[str, str], job: Callable[..., Any], device: str
) -> Work:
    """Load the model in a process; return what it does with an item."""
    predictor = Predictor.load(
        loading.model, device=device, precision=loading.precision, tta=loading.tta
    )
    if (identify(predictor.segmenter), __version__) != identity:
        raise ConfigError(
            f"is another model there, or not that of lungunet {identity[1]}. Let all machines have "
            "the same.",
            where=loading.model,
        )
    return partial(job, predictor)


def note(record: Record, name: str, path: Path, *, source: str, error: str) -> None:
    """Record why there is no mask, without the folders of the file."""
    text = error.replace(str(path), name)
    record.fail(name, source, text.removeprefix(f"{name}: "))


@contextmanager
def recording(
    out: Path,
    predictor: Predictor,
    settings: Mapping[str, bool | str],
    *,
    codec: LabelCodec,
    part: Part | None,
    belongs: Mapping[str, Sequence[Path]],
    overwrite: bool,
    skip_existing: bool,
) -> Iterator[Record]:
    """Keep the record of a job, new or gone on with; nobody else writes one meanwhile.

    Parts have one each, and go on side by side.

    Parameters
    ----------
    belongs : by name of each mask of the whole job all files that may be of it

    Raises
    ------
    ConfigError
        When nobody can tell by whom masks were made, another job writes into the folder, it is
        divided otherwise, or what stays in it would be taken for what it is not.
    """
    if overwrite and skip_existing:
        raise ConfigError(
            "overwrite and skip_existing: one replaces what the other keeps. Leave one out."
        )
    made_by: dict[str, Any] = {"model": identify(predictor.segmenter), "lungunet": __version__}
    made_by["tta"] = predictor.tta
    made_by |= {**settings, "labels": codec.to_dict()}
    if predictor.address:
        made_by["address"] = predictor.address
    if skip_existing and not made_by["model"]:
        raise ConfigError(
            "skip_existing: nobody can tell whether masks were made by this segmenter. "
            "Give it weights_sha256, which says what it is.",
        )
    with nullcontext() if part else claimed(out, doing="another job writes into it"):
        refuse_divided_otherwise(out, part, plain(made_by), overwrite=overwrite)
        record = Record(
            out,
            made_by,
            going_on=skip_existing,
            part=part.folder(out) if part else None,
            again=belongs if overwrite else None,
        )
        with closing(record):
            yield record


def identify(segmenter: Segmenter) -> str:
    """Return what two models share when one version makes the same masks; empty if not known."""
    said = getattr(segmenter, "weights_sha256", "")
    if segmenter.word == "threshold":
        said = "threshold"
    members = [identify(member) for member in getattr(segmenter, "members", ())]
    said = said or (" ".join(members) if all(members) else "")
    about = json_text([segmenter.contract.to_dict(), segmenter.codec.to_dict()])
    return sha256(f"{said} {about}".encode()).hexdigest() if said else ""


def name_uncertainty(name: str) -> Path:
    """Return where the map of uncertainty goes, below the folder."""
    return Path("uncertainty", name)


def name_maps(stem: str, class_names: Sequence[str], suffix: str = ".tif") -> list[Path]:
    """Return where the probabilities of each class but background go."""
    if len(class_names) == 2:
        return [Path("probabilities", f"{stem}{suffix}")]
    ends = [name.replace(" ", "-") for name in class_names[1:]]
    return [Path("probabilities", f"{stem}_{end}{suffix}") for end in ends]
