"""Open a review: from lists, masks or pairs to a page in the browser, and back with the log."""

import webbrowser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

from lungunet.data.codec import LabelCodec
from lungunet.data.manifest import Pair
from lungunet.data.review_log import ReviewLog
from lungunet.errors import ConfigError, LabelError, LungUNetError
from lungunet.models.builtin import BUILTIN
from lungunet.progress import Progress, silent
from lungunet.reviewing.desk import Desk
from lungunet.reviewing.opinions import Opinions
from lungunet.reviewing.scans import Shelf
from lungunet.reviewing.server import ReviewServer
from lungunet.reviewing.sources import Material, scans_to_review, slices_to_review

_DOOR = (
    '<!doctype html><meta charset="utf-8"><meta name="referrer" content="no-referrer">'
    '<meta http-equiv="refresh" content="0; url={0}"><p><a href="{0}">Open the review</a>\n'
)


@dataclass(frozen=True)
class ReviewConfig:
    """How masks are reviewed.

    Parameters
    ----------
    model : whose masks can be taken and shown, as :meth:`Predictor.load` takes it
    device : the model's
    who : a word for the reader, kept in the log; the page can change it
    codec : of the masks; None means what split.json says, else 0 and 255 (0 and 1 of scans)
    names : how masks are called beside their slices, as for :func:`find_pairs`
    ranking : folder of the audit whose ranking gives the order; None takes the one in the data
        folder, else the masks are ranked here
    browser : open the page in the browser
    host : to listen on. Another one than this machine's own lets others of the network in who know
        the token, which goes over the network unencrypted
    port : 0 takes a free one
    """

    model: str = "lungs"
    device: str = "auto"
    who: str = ""
    codec: LabelCodec | None = None
    names: str | None = None
    ranking: Path | None = None
    browser: bool = True
    host: str = "127.0.0.1"
    port: int = 0


def review(
    source: str | Path | Sequence[Pair],
    out: str | Path | None,
    *,
    images: str | Path | None = None,
    scans: str | Path | None = None,
    config: ReviewConfig = ReviewConfig(),
    show: Callable[[str], object] | None = None,
    progress: Progress = silent,
) -> ReviewLog:
    """Look at masks in the browser, the most doubtful first; mend, keep or drop them.

    Serves a page on this machine until its Finish button or Ctrl-C. Every change is on disk at
    once, in the format, size and coding of the mask; its first version is kept in the hidden folder
    ``.review`` beside it, and ``review.jsonl`` tells what was done.

    Parameters
    ----------
    source : a data folder with train.txt; pairs; or, with ``images`` or ``scans``, a folder of
        masks such as ``lungunet predict`` writes
    out : folder for the masks: all are copied there, and the copies are mended. A review that was
        broken off goes on there. None mends the masks themselves
    images : folder of the slices that ``source`` holds masks of
    scans : folder of the scans that ``source`` holds masks of
    config : how
    show : is given the address of the page once it can be opened, with its token
    progress : counts the masks that are ranked

    Returns
    -------
    ReviewLog
        What was decided and changed, now and earlier.

    Raises
    ------
    DataError
        When a list, folder or log cannot be used, or slices and masks do not pair up.
    ConfigError
        When ``out`` holds other masks, or what is asked for contradicts itself.
    ModelError
        When there is no such model.

    Examples
    --------
    >>> log = lungunet.review("data", "mended")  # doctest: +SKIP
    >>> log.dropped  # doctest: +SKIP
    ('ID_0007',)
    """
    with opened_review(
        source, out, images=images, scans=scans, config=config, progress=progress
    ) as server:
        with suppress(KeyboardInterrupt), _doorway(server.address) as door:
            if show is not None:
                show(server.address)
            if config.browser:
                webbrowser.open(door)
            while not server.finished.wait(0.5):  # a wait without end hears no Ctrl-C on Windows
                pass
        return server.desk.log


@contextmanager
def _doorway(address: str) -> Iterator[str]:
    """Yield the address of a file of this user alone that leads to the page.

    Every user of the machine sees the command line that a browser is started with; the token must
    not stand there.
    """
    with TemporaryDirectory(prefix="lungunet-", ignore_cleanup_errors=True) as folder:
        page = Path(folder, "review.html")
        page.touch(mode=0o600)
        page.write_text(_DOOR.format(escape(address)), encoding="utf-8")
        yield page.as_uri()


@contextmanager
def opened_review(
    source: str | Path | Sequence[Pair],
    out: str | Path | None,
    *,
    images: str | Path | None = None,
    scans: str | Path | None = None,
    config: ReviewConfig = ReviewConfig(),
    progress: Progress = silent,
) -> Iterator[ReviewServer]:
    """Serve a review while the block runs; see :func:`review`."""
    material, shelf = _material(
        source, out, images=images, scans=scans, config=config, progress=progress
    )
    try:
        _require_known_values(material)
    except LabelError:
        shelf.close()
        raise
    desk = Desk(material.entries, material.log, material.codec)
    opinions = Opinions(config.model, device=config.device)
    if config.model in BUILTIN:  # it is there, and takes torch a while
        Thread(target=opinions.load, daemon=True).start()
    else:
        opinions.load()  # a wrong name is told now
    server = ReviewServer(
        desk,
        opinions,
        who=config.who,
        copies=None if out is None else Path(out),
        host=config.host,
        port=config.port,
    )
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        shelf.close()


def _require_known_values(material: Material) -> None:
    """Refuse, before anything is logged, masks none of which is coded as expected."""
    first: LabelError | None = None
    for entry in material.entries:
        try:
            entry.case.plane(entry.case.start)
        except LabelError as err:
            first = first or err
        except LungUNetError:  # told on the page
            return
        else:
            return
    if first is not None:
        raise first


def _material(
    source: str | Path | Sequence[Pair],
    out: str | Path | None,
    *,
    images: str | Path | None,
    scans: str | Path | None,
    config: ReviewConfig,
    progress: Progress,
) -> tuple[Material, Shelf]:
    if images is not None and scans is not None:
        raise ConfigError("images and scans: masks are of the one or the other. Leave one out.")
    where = None if out is None else Path(out)
    if scans is not None:
        if not isinstance(source, str | Path):
            raise ConfigError("scans: needs a folder of masks, not pairs.")
        return scans_to_review(
            Path(source), where, scans=Path(scans), codec=config.codec, names=config.names
        )
    material = slices_to_review(
        source,
        where,
        images=None if images is None else Path(images),
        codec=config.codec,
        names=config.names,
        ranking=config.ranking,
        progress=progress,
    )
    return material, Shelf()
