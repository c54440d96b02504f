"""Models of the Hugging Face Hub, ``hf://OWNER/NAME@REVISION``: three files, by their commit.

Nothing but such an address asks the hub. Knows no torch, and nothing of what a model is.
"""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lungunet._version import __version__
from lungunet.errors import LungUNetWarning, ModelError, WeightsUnavailableError, listed

# Its client would say what else is installed, and ask who runs it; read when it is imported.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

_PREFIX = "hf://"
_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([^@\s]+))?")
_COMMIT = re.compile("[0-9a-f]{40}")
_ABOUT, _CONFIG, _WEIGHTS = "lungunet.json", "config.json", "model.safetensors"
# Bytes. The largest encoders have some 4 GB of weights; what says more is no model of lungs.
_LARGEST = {_ABOUT: 2**20, _CONFIG: 2**20, _WEIGHTS: 8 * 2**30}


@dataclass(frozen=True)
class Fetched:
    """A model of the hub that lies on this machine.

    Parameters
    ----------
    folder : in the cache of huggingface_hub; nothing is to be written there
    address : with the commit for its revision, so that it means the same for ever
    """

    folder: Path
    address: str


def is_on_hub(model: object) -> bool:
    """Tell whether this is the address of one model on the hub; several are joined with ``+``."""
    return isinstance(model, str) and model.startswith(_PREFIX) and "+" not in model


def hub_address(model: str | Path) -> str:
    """Return a MODEL with the commit in each address that it holds; empty where it holds none."""
    parts = [part.strip() for part in model.split("+")] if isinstance(model, str) else []
    if not any(map(is_on_hub, parts)):
        return ""
    return "+".join(fetch(part).address if is_on_hub(part) else part for part in parts)


@cache  # one process means one commit, however often it asks, and says once which
def fetch(address: str) -> Fetched:
    """Bring a model here, unless it is; what is here is not asked for again.

    A branch, or none, which means main, is asked for its newest commit, and a warning says which
    that is. Where the hub cannot be reached, the newest that is here counts.

    Raises
    ------
    ModelError
        When there is no such model, it may not be read, or is not one of ours.
    WeightsUnavailableError
        When the hub cannot be reached.
    """
    found = _ADDRESS.fullmatch(address)
    if found is None:
        raise ModelError(
            "no address of a model. Write hf://OWNER/NAME@REVISION, and of the revision a commit.",
            where=address,
        )
    repository, revision = found[1], found[2] or "main"
    try:
        commit, is_newest = revision, True
        if not _COMMIT.fullmatch(revision):
            commit, is_newest = _find_commit(repository, revision)
        files = [_get(repository, name, commit) for name in _LARGEST]
    except Exception as err:
        raise _explained(err, address, repository, revision) from err
    pinned = f"{_PREFIX}{repository}@{commit}"
    if commit != revision:
        of = f"is {commit} now" if is_newest else f"was {commit}; the hub could not be reached"
        warnings.warn(
            f"{address}: {revision} {of}. To get the same again, write {pinned}",
            LungUNetWarning,
            stacklevel=2,
        )
    return Fetched(files[0].parent, pinned)


def _find_commit(repository: str, revision: str) -> tuple[str, bool]:
    """Return the commit that a branch or tag means, and whether the hub has said so."""
    from huggingface_hub import try_to_load_from_cache

    try:
        return _download(repository, _ABOUT, revision).parent.name, True
    except Exception as err:
        cached = try_to_load_from_cache(repository, _ABOUT, revision=revision)
        if isinstance(cached, str) and is_unreachable(err) and _answer(err) // 100 != 4:
            return Path(cached).parent.name, False
        raise


def _get(repository: str, name: str, commit: str) -> Path:
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(repository, name, revision=commit)
    return Path(cached) if isinstance(cached, str) else _download(repository, name, commit)


def _download(repository: str, name: str, revision: str) -> Path:
    """Fetch one file, if it is as small as such a file is; the client keeps it."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    size = get_hf_file_metadata(hf_hub_url(repository, name, revision=revision)).size or 0
    if size > _LARGEST[name]:
        raise ModelError(
            f"{name} has {size / 1e6:.0f} MB, and more than {_LARGEST[name] / 1e6:.0f} is not "
            "fetched. Look whether this is the model that you mean."
        )
    file = hf_hub_download(
        repository,
        name,
        revision=revision,
        library_name="lungunet",
        library_version=__version__,
    )
    return Path(file)


def _explained(err: Exception, address: str, repository: str, revision: str) -> Exception:
    """Give the error to raise for ``err``, which came on the way; ``err`` if none fits."""
    from huggingface_hub import errors

    answer = _answer(err)
    if isinstance(err, ModelError):
        text = err.message
    elif isinstance(err, errors.HFValidationError):
        text = "no name that the hub can have. Check it."
    elif isinstance(err, errors.GatedRepoError):
        text = "its owner wants to be asked. Do so on its page, then log in: 'hf auth login'."
    elif isinstance(err, errors.RepositoryNotFoundError) or answer == 401:
        text = (
            "the hub does not know it, or does not show it to you. Check the name; for one that is "
            "private log in with 'hf auth login', or set HF_TOKEN."
        )
    elif isinstance(err, errors.RevisionNotFoundError):
        text = f"there is no revision '{revision}'. Name a branch, a tag or a whole commit."
    elif isinstance(err, errors.EntryNotFoundError) and answer:
        text = _missing(repository, revision)
    elif answer // 100 == 4:
        text = f"the hub refuses ({answer}). Log in with 'hf auth login', or try later."
    elif is_unreachable(err):
        return WeightsUnavailableError(
            f"the hub cannot be reached ({answer or type(err).__name__}), and the cache does not "
            "hold it. Fetch it once where there is a network and copy the cache there (HF_HOME), "
            "or give a model folder.",
            where=address,
        )
    elif isinstance(err, OSError):
        text = f"cannot be kept in the cache ({err}). Let HF_HOME name another folder."
    else:
        return err
    return ModelError(text, where=address)


def _answer(err: Exception) -> int:
    """Return the HTTP status that the hub gave; 0 where it gave none."""
    return int(getattr(getattr(err, "response", None), "status_code", 0))


def _missing(repository: str, revision: str) -> str:
    """Say which of our files a repository lacks, and what it is instead."""
    from huggingface_hub import HfApi

    there = HfApi().list_repo_files(repository, revision=revision)
    missing = [name for name in _LARGEST if name not in there]
    if not missing:  # it came in between
        return "is being changed. Try again."
    text = f"{listed(missing, separator=', ')} missing: "
    if f"best/{_ABOUT}" in there:
        return text + (
            "a whole run, with the names of its slices and pictures of them. Its owner should take "
            "it back, and push the folder best alone."
        )
    if _WEIGHTS in missing:
        pickles = [name for name in there if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
        also = f" ({listed(pickles, separator=', ')} could run code and is not read)"
        return text + (
            f"no weights that can be read safely{also if pickles else ''}. Ask for safetensors."
        )
    return text + (
        "not a model folder of lungunet, which says window, size and labels. Fetch it with "
        f"'hf download {repository} --local-dir DIR', and say them in Python: "
        "load_model(DIR, contract=..., codec=...)."
    )


def is_unreachable(err: Exception) -> bool:
    """Tell whether an error of huggingface_hub means that its hub gave no answer, or a broken one.

    It turns most failures into LocalEntryNotFoundError. The rest comes raw from its HTTP library,
    requests, httpx or httpx2 by version: told by the names of their base classes.
    """
    names = {cls.__name__ for cls in type(err).__mro__}
    by_name = {"LocalEntryNotFoundError", "HTTPError", "RequestException", "URLError"}
    return isinstance(err, ConnectionError | TimeoutError) or bool(names & by_name)
