"""What a MODEL is by its name and files: a folder, a word, an address of the hub, or several.

Knows no torch.
"""

from pathlib import Path

from lungunet.data.split import fold_folders
from lungunet.errors import ModelError, listed
from lungunet.models.builtin import BUILTIN
from lungunet.models.hub import fetch, is_on_hub

ABOUT, WEIGHTS = "lungunet.json", "model.safetensors"
"""The files of a model folder that make it one."""


def named_folder(model: str | Path) -> Path:
    """Return the folder behind a word or an address of the hub, and any other path as it is.

    A folder of the user's that is called like a built-in model is a Path, or ``"./lungs"``. A model
    of the hub is fetched where it is not here yet.

    Raises
    ------
    ModelError
        When the hub has no such model.
    WeightsUnavailableError
        When it cannot be reached.
    """
    if not isinstance(model, str):
        return model
    return fetch(model).folder if is_on_hub(model) else BUILTIN.get(model, Path(model))


def is_model_folder(path: str | Path) -> bool:
    """Tell whether a path is a model folder, whole or not, or a run folder that holds one."""
    folders = (Path(path), Path(path) / "best")
    return any((folder / name).is_file() for folder in folders for name in (ABOUT, WEIGHTS))


def find_run_folders(model: str | Path) -> list[Path]:
    """List the folders that may be the run of a model: its own, and that around a ``best``.

    Parameters
    ----------
    model : one model, or the file of weights in its folder
    """
    place = named_folder(model)
    folder = place.parent if place.name == WEIGHTS else place
    whole = folder.resolve()
    return [folder, whole.parent] if whole.name == "best" else [folder]


def find_members(model: str | Path) -> list[str | Path]:
    """List the models that predict together; most are one by themselves.

    Parameters
    ----------
    model : the folder of a cross-validation, for the models of its folds; models joined by ``+``,
        as ``"runs/a+runs/b"``; an address of the hub, for the folder that it was fetched to; or
        any other, which is its own only member. A path that is there is never taken apart

    Raises
    ------
    ModelError
        When a fold holds no model, a name beside a ``+`` is empty, or the hub has no such model.
    """
    if isinstance(model, str) and "+" in model and not Path(model).exists():
        parts = [part.strip() for part in model.split("+")]
        if not all(parts):
            raise ModelError("a name is missing beside a +. Write A+B.", where=model)
        return [member for part in parts for member in find_members(part)]
    place = named_folder(model)
    if is_on_hub(model):
        return [place]
    folds = [] if is_model_folder(place) else fold_folders(place)
    if not folds:
        return [model]
    empty = [str(fold) for fold in folds if not is_model_folder(fold)]
    if len(empty) == len(folds):  # folders of lists, as beside a split
        return [model]
    if empty:
        raise ModelError(
            f"no model in {listed(empty, separator=', ')}: the cross-validation is not done. "
            "Train the rest, or join the others with +.",
            where=place,
        )
    return [*folds]
