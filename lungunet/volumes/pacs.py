"""Scans of a PACS over DICOMweb: found, fetched while they are read, and masks sent back.

The only door to dicomweb-client and requests. Speaks to the server of a URL that the user gave and
to no other. Credentials come from the environment or .netrc, and go nowhere but to that server.
"""

import os
import re
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from lungunet.errors import ConfigError, DataError, LungUNetWarning, MissingExtraError, listed
from lungunet.process_wide import ignored_warnings
from lungunet.progress import Progress, silent
from lungunet.volumes import dicom
from lungunet.volumes.scan import Remote, Scan, short_id
from lungunet.volumes.series import choose, find_series
from lungunet.volumes.temporary import private_folder

USER, PASSWORD, TOKEN = "LUNGUNET_PACS_USER", "LUNGUNET_PACS_PASSWORD", "LUNGUNET_PACS_TOKEN"
"""Variables of the environment that hold credentials; without them .netrc may."""

_SCHEME = re.compile(r"dicomweb\+(https?://.*)", re.DOTALL)
_STUDY = re.compile(r"(https?://.+)/studies/([0-9.]+)(?:/series/([0-9.]+))?/?")
_CONNECT_S, _ANSWER_S = 10, 120
_WAITS_S = (1, 3, 9)  # before it is tried again
_PASSING = (408, 425, 429, 500, 502, 503, 504)  # answers of a server that may do better soon
_DENIED = (401, 403, 407)
_MODALITY, _SERIES, _INSTANCE = "00080060", "0020000E", "00080018"

T = TypeVar("T")


def is_pacs(source: str | Path) -> bool:
    """Whether a source is a study or series of a PACS: it begins with dicomweb+http."""
    return _SCHEME.fullmatch(str(source)) is not None


def find_remote(source: str, *, series: str | None = None) -> list[Scan]:
    """List the series of a study that are axial CT, by their headers alone.

    The others are left out with a warning, as :func:`find_series` leaves them out.

    Parameters
    ----------
    source : ``dicomweb+https://HOST/PATH/studies/UID``, or ``.../studies/UID/series/UID``
    series : short id or SeriesInstanceUID of the only one that counts

    Raises
    ------
    ConfigError
        When the URL is none of these, or names a password, or there is no such series.
    DataError
        When the server cannot be reached, refuses, or knows no such study.
    MissingExtraError
        When dicomweb-client is not installed.
    """
    server, study, only = _parse(source)
    client = _client(server)
    _warn_of_open_lines(server)
    listing = _ask(server, lambda: client.search_for_series(study_instance_uid=study))
    known = {uid: _value(item, _MODALITY) for item in listing if (uid := _value(item, _SERIES))}
    wanted = only or series
    meant = {uid: kind for uid, kind in known.items() if wanted in (None, uid, short_id(uid))}
    if not meant:
        there = listed([short_id(uid) for uid in known], separator=", ") or "nothing"
        what = f"no series '{wanted}', but {there}" if wanted else "no such study, or no series"
        raise DataError(f"the server has {what}. Check the address.", where=source)
    others = Counter(kind for kind in meant.values() if kind not in ("CT", ""))
    headers = {
        uid: _ask(server, lambda uid=uid: client.retrieve_series_metadata(study, uid))  # type: ignore[misc]
        for uid, kind in meant.items()
        if kind in ("CT", "")
    }
    if others:
        kinds = [f"{count} of {dicom.said_of(kind)}" for kind, count in others.items()]
        warnings.warn(
            f"{source}: series left out: {listed(kinds, separator=', ')}.",
            LungUNetWarning,
            stacklevel=3,
        )
    return _judge(source, Remote(server, study), headers)


def _judge(
    source: str, at: Remote, headers: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[Scan]:
    """Sort out what is axial CT, as of files on disk: of each the header is written to one."""
    from lungunet.volumes.dicom_out import write_header

    with private_folder(source, name="study") as study:
        folders: dict[Path, list[Path]] = {}
        for uid, items in headers.items():
            (folder := study / short_id(uid)).mkdir(parents=True)
            folders[folder] = [folder / f"{index:05d}.dcm" for index in range(len(items))]
            for path, item in zip(folders[folder], items, strict=True):
                write_header(path, item)
        found = find_series(folders) if folders else []
        if not found:
            raise DataError("holds no axial CT. Check the address.", where=source)
        counts = {uid: len(items) for uid, items in headers.items()}
        return [_remote(scan, source, at, counts) for scan in found]


def _remote(scan: Scan, source: str, at: Remote, counts: Mapping[str, int]) -> Scan:
    """Return a scan that is not here, of one that only has headers here."""
    if not scan.slices:
        return replace(scan, path=Path(source, scan.path.name), remote=at)
    instances = tuple(dict.fromkeys(item.instance for item in scan.slices))
    series = scan.slices[0].series
    whole = len(instances) == counts.get(series)
    remote = replace(at, series=series, instances=instances, is_whole=whole)
    return Scan(Path(source, short_id(remote.series)), "", error=scan.error, remote=remote)


@contextmanager
def at_hand(scan: Scan, *, progress: Progress = silent) -> Iterator[Scan]:
    """Yield a scan whose files are here; one of a PACS is fetched, for as long as the block runs.

    It lies in a private temporary folder that goes with the block, or with the process.

    Parameters
    ----------
    progress : counts files

    Raises
    ------
    DataError
        When the server cannot be reached, or does not give what it has listed.
    """
    if scan.remote is None or scan.error is not None:
        yield scan
        return
    with private_folder(scan, name=short_id(scan.remote.series)) as folder:
        folder.mkdir()
        files = _fetch(scan.remote, folder, progress)
        here = choose(find_series({folder: files}), folder)
        yield replace(here, path=folder, name=scan.name)


def _fetch(remote: Remote, folder: Path, progress: Progress) -> list[Path]:
    from lungunet.volumes.dicom_out import save_as_sent

    files: list[Path] = []
    for sent in progress(_sent(remote), desc="fetch", total=len(remote.instances)):
        files.append(folder / f"{len(files):05d}.dcm")
        save_as_sent(sent, files[-1])
    return files


def _sent(remote: Remote) -> Iterator[Any]:
    """Yield the instances, each once: in one stream where all are wanted, else one by one."""
    client = _client(remote.server)
    as_stored = {"media_types": (("application/dicom", "*"),)}
    left = dict.fromkeys(remote.instances)
    if remote.is_whole:
        whole = (remote.study, remote.series)
        for sent in _until_it_breaks(lambda: client.iter_series(*whole, **as_stored)):
            if left.pop(sent.SOPInstanceUID, remote) is None:
                yield sent
    for uid in left:
        of = (remote.study, remote.series, uid)
        yield _ask(remote.server, lambda of=of: client.retrieve_instance(*of, **as_stored))  # type: ignore[misc]


def _until_it_breaks(start: Callable[[], Iterator[Any]]) -> Iterator[Any]:
    """Yield what comes; the rest is asked for one by one then, and errors are said there."""
    stream = None
    while True:
        try:
            with ignored_warnings():  # of answers that are not quite as they should be
                stream = start() if stream is None else stream
                sent = next(stream, None)
        except Exception:  # as for _ask
            return
        if sent is None:
            return
        yield sent


def store(mask: Path, remote: Remote, *, unless_there: bool = False) -> None:
    """Send a mask in DICOM to the server that its scan came from.

    Parameters
    ----------
    unless_there : ask first whether the server holds it by its SOPInstanceUID, and send it then no
        second time

    Raises
    ------
    DataError
        When the server cannot be reached, or does not take it.
    """
    from lungunet.volumes.dicom_out import read_whole

    client, instance = _client(remote.server), read_whole(mask)
    if unless_there and _holds(client, remote, str(instance.SOPInstanceUID)):
        return
    answer = _ask(remote.server, lambda: client.store_instances([instance], remote.study))
    if answer.get("FailedSOPSequence"):
        raise DataError("the server did not take it. Look at its log.", where=remote.server)


def _holds(client: Any, remote: Remote, instance: str) -> bool:
    asked = {"SOPInstanceUID": instance}
    found = _ask(
        remote.server, lambda: client.search_for_instances(remote.study, search_filters=asked)
    )
    return any(_value(item, _INSTANCE) == instance for item in found)


def _parse(source: str) -> tuple[str, str, str | None]:
    """Return the server's address, the study, and the series where there is one."""
    match = _SCHEME.fullmatch(source)
    address = match[1] if match else ""
    if "@" in urlsplit(address).netloc:
        raise ConfigError(
            f"an address with a password in it ends in logs. Leave it out, and set {USER} and "
            f"{PASSWORD}, or write it to .netrc.",
            where=f"dicomweb+{urlsplit(address).scheme}://...",
        )
    parts = _STUDY.fullmatch(address)
    if parts is None or not urlsplit(address).hostname:
        raise ConfigError(
            "no study. Give dicomweb+https://HOST/PATH/studies/UID, or .../studies/UID/series/UID.",
            where=source,
        )
    return parts[1], parts[2], parts[3]


def _client(server: str) -> Any:
    web, requests = _packages()
    session = requests.Session()
    session.max_redirects = 0  # to no other server
    session.auth = _credentials(requests)
    client = web.DICOMwebClient(server, session=session, timeout=(_CONNECT_S, _ANSWER_S))
    client.set_http_retry_params(retry=False)  # ours knows lost connections too
    return client


def _warn_of_open_lines(server: str) -> None:
    address = urlsplit(server)
    if address.scheme == "http" and address.hostname not in ("localhost", "127.0.0.1", "::1"):
        warnings.warn(
            f"{server}: scans and passwords go over the network as anyone can read them. "
            "Use dicomweb+https where the server has it.",
            LungUNetWarning,
            stacklevel=4,
        )


def _credentials(requests: Any) -> Any:
    """Return what the environment says; without anything requests looks into .netrc."""
    token, user = os.environ.get(TOKEN), os.environ.get(USER)
    if token:

        def bear(request: Any) -> Any:
            request.headers["Authorization"] = f"Bearer {token}"
            return request

        return bear
    return requests.auth.HTTPBasicAuth(user, os.environ.get(PASSWORD, "")) if user else None


def _ask(server: str, call: Callable[[], T]) -> T:
    """Ask the server; again, after a while each time, where that may help."""
    for wait_s in (*_WAITS_S, None):
        try:
            with ignored_warnings():  # of answers that are not quite as they should be
                return call()
        except Exception as err:  # of requests, and of what is no DICOM of pydicom whatever
            if wait_s is None or not _may_pass(err):
                raise DataError(_why(err), where=server) from None  # theirs quotes all it has
            time.sleep(wait_s)
    raise AssertionError  # the last wait is None


def _may_pass(err: Exception) -> bool:
    _, requests = _packages()
    errors = requests.exceptions
    if isinstance(err, errors.HTTPError):
        return err.response.status_code in _PASSING
    lost = (errors.ConnectionError, errors.Timeout, errors.ChunkedEncodingError)
    return isinstance(err, lost) and not isinstance(err, (errors.SSLError, errors.ProxyError))


def _why(err: Exception) -> str:
    _, requests = _packages()
    errors = requests.exceptions
    if isinstance(err, errors.HTTPError):
        code = err.response.status_code
        if code in _DENIED:
            return (
                f"the server denies access ({code}). Set {USER} and {PASSWORD}, or {TOKEN}, or "
                "write user and password to .netrc."
            )
        return f"the server answers {code}. Check the address, and the log of the server."
    if isinstance(err, errors.SSLError):
        return (
            "its certificate cannot be trusted. Let REQUESTS_CA_BUNDLE name the file of the "
            "authority that signed it."
        )
    if isinstance(err, errors.TooManyRedirects):
        return "the server sends elsewhere. Give that address, if you trust it."
    if isinstance(err, errors.Timeout):
        return f"no answer in {_ANSWER_S} s, tried {len(_WAITS_S) + 1} times. Try again later."
    if isinstance(err, errors.ConnectionError):
        return "cannot be reached. Check the address, and whether the server runs."
    if isinstance(err, errors.RequestException):
        return f"cannot be asked ({type(err).__name__}). Check the address."
    return f"its answer is no DICOM ({type(err).__name__}). Check the address."


def _value(item: Mapping[str, Any], tag: str) -> str:
    values = item.get(tag, {}).get("Value") or [""]
    return str(values[0])


def _packages() -> tuple[Any, Any]:
    try:
        import dicomweb_client.web
        import requests
    except ImportError as err:
        raise MissingExtraError(
            "dicomweb-client is not installed. pip install 'lungunet[pacs]'", where="pacs"
        ) from err
    return dicomweb_client.web, requests
