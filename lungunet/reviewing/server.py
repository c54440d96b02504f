"""The server of a review: for this machine, for who has the token, and for its own page alone.

The standard library's: one user, no socket that stays open, nothing to install. Owns who is let in
and what is sent. A request names cases by number, never by path. Writes no log of requests.
"""

import hmac
import ipaddress
import json
import secrets
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import cv2
import numpy as np

from lungunet.data.hu import judge_hu, restore_hu
from lungunet.data.overlay import show_grey
from lungunet.errors import DataError, LungUNetError
from lungunet.reviewing.desk import Desk, StaleError
from lungunet.reviewing.opinions import Opinions
from lungunet.reviewing.scans import ScanCase

_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_TEXT_BYTES = 16_000  # of a decision with its note
_PIXELS = 64_000_000  # of a slice
_THUMB = 56  # px
_IDLE_S = 60.0
_WINDOW_GONE_S = 8.0  # a window asks every two seconds
_INT16 = np.iinfo(np.int16)


@cache
def page_files() -> Mapping[str, tuple[bytes, str]]:
    """Return what the page is made of: address to content and type."""
    found = {}
    for file in (files("lungunet.reviewing") / "page").iterdir():
        ending = "." + file.name.rpartition(".")[2]
        if ending in _TYPES:
            found[f"/{file.name}"] = (file.read_bytes(), f"{_TYPES[ending]}; charset=utf-8")
    return {**found, "/": found["/index.html"]}


class ReviewServer(ThreadingHTTPServer):
    """Serves one review; see :attr:`address`.

    Parameters
    ----------
    desk : the review
    opinions : whom "take from model" asks
    who : a word for the reader, to begin with
    copies : folder of the masks that are mended; None where no copies are
    host, port : to listen on; 0 takes a free port
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self,
        desk: Desk,
        opinions: Opinions,
        *,
        who: str = "",
        copies: Path | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.desk, self.opinions, self.who, self.copies = desk, opinions, who, copies
        self.token = secrets.token_urlsafe(24)
        self.finished = threading.Event()
        self._ended = False
        self._seen: dict[str, float] = {}
        self._host = host
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), _Handler)
        except OSError as err:
            raise DataError(
                f"cannot be listened on ({err.strerror}). Choose another host or port.",
                where=f"{host}:{port}",
            ) from err

    @property
    def address(self) -> str:
        """What opens the page. The token stands behind the #, which browsers send to nobody."""
        return f"http://{self._named(self._host)}:{self.server_port}/#{self.token}"

    @staticmethod
    def _named(host: str) -> str:
        return f"[{host}]" if ":" in host else host

    def is_called(self, host: str | None) -> bool:
        """Whether a Host header is one of ours: a foreign name may point here (DNS rebinding)."""
        name, _, port = (host or "").rpartition(":")
        if port != str(self.server_port):
            return False
        if name.lower() in ("127.0.0.1", "localhost", "[::1]", self._named(self._host).lower()):
            return True
        return self._listens_everywhere and _is_address(name)

    @property
    def _listens_everywhere(self) -> bool:
        return self._host in ("0.0.0.0", "::")

    def lets_in(self, token: str | None) -> bool:
        """Whether the token is right."""
        return hmac.compare_digest((token or "").encode(), self.token.encode())

    def count_windows(self, window: str) -> int:
        """Return in how many windows the page is open, the asking one among them."""
        now = time.monotonic()
        self._seen[window[:40]] = now
        self._seen = {w: t for w, t in tuple(self._seen.items()) if now - t < _WINDOW_GONE_S}
        return len(self._seen)

    @property
    def has_ended(self) -> bool:
        """Whether the review is over: connections that are still open are not answered either."""
        return self._ended

    def server_close(self) -> None:
        """Listen no more."""
        self._ended = True
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of connections that break."""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


class _Refused(Exception):
    """A request that gets an error status."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: ReviewServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "lungunet", ""
    timeout = _IDLE_S  # of a connection that says nothing

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: names of patients stand in none."""

    def _answer(self, act: Any) -> None:
        if self.server.has_ended:
            self.close_connection = True
            return
        try:
            self._refuse_strangers()
            body, kind = act(urlsplit(self.path))
            status = HTTPStatus.OK
        except _Refused as err:
            status, body, kind = err.status, *_json({"error": str(err)})
            self.close_connection = True  # what the request still holds is not read
        except StaleError as err:
            status, body, kind = HTTPStatus.CONFLICT, *_json({"error": str(err)})
        except (LungUNetError, ImportError) as err:
            status, body, kind = HTTPStatus.UNPROCESSABLE_ENTITY, *_json({"error": str(err)})
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def _refuse_strangers(self) -> None:
        host, origin = self.headers.get("Host"), self.headers.get("Origin")
        if not self.server.is_called(host):
            raise _Refused(HTTPStatus.FORBIDDEN, "not the address of this server")
        if origin is not None and origin.lower() != f"http://{host}".lower():
            raise _Refused(HTTPStatus.FORBIDDEN, "asked by another page")
        own = self.headers.get("Sec-Fetch-Site", "none") in ("same-origin", "none")
        if not own and not self._is_opened:
            raise _Refused(HTTPStatus.FORBIDDEN, "asked by another page")

    @property
    def _is_opened(self) -> bool:
        """Whether a link opens the page in a window; without the token it shows nothing."""
        how = [self.headers.get(f"Sec-Fetch-{name}") for name in ("Mode", "Dest")]
        return self.command == "GET" and self.path == "/" and how == ["navigate", "document"]

    def _demand_token(self) -> None:
        if not self.server.lets_in(self.headers.get("X-Token")):
            raise _Refused(HTTPStatus.FORBIDDEN, "wrong token: use the address that was printed")

    def _get(self, url: Any) -> tuple[bytes, str]:
        if url.path in page_files():
            return page_files()[url.path]
        self._demand_token()
        query = _Query(url.query, self.server.desk)
        desk = self.server.desk
        if url.path == "/api/list":
            copies = self.server.copies and str(self.server.copies.absolute())
            return _json({**desk.listing(), "who": self.server.who, "copies": copies})
        if url.path == "/api/pulse":
            windows = self.server.count_windows(query.text("window"))
            return _json({"windows": windows, "changes": desk.changes})
        if url.path == "/api/thumb":
            return _binary({}, _thumb(*desk.entries[query.case].case.preview()))
        if url.path == "/api/slice":
            return self._slice(query)
        if url.path == "/api/first":
            return _binary({}, [desk.entries[query.case].case.first(query.z)])
        if url.path == "/api/opinion":
            return self._opinion(query)
        raise _Refused(HTTPStatus.NOT_FOUND, "nothing here")

    def _slice(self, query: "_Query") -> tuple[bytes, str]:
        if query.text("axis") in ("coronal", "sagittal"):
            return self._across(query, query.text("axis"))
        case = self.server.desk.entries[query.case].case
        plane = self.server.desk.plane(query.case, query.z)
        shown, look = _look(plane.image)
        head = {
            "height": plane.image.shape[0],
            "width": plane.image.shape[1],
            "dtype": shown.dtype.name,
            "version": plane.version,
            **look,
            **({"depth": case.depth, "z": query.z} if case.is_scan else {}),
        }
        return _binary(head, [shown, plane.classes])

    def _across(self, query: "_Query", axis: str) -> tuple[bytes, str]:
        case = self.server.desk.entries[query.case].case
        if not isinstance(case, ScanCase):
            raise _Refused(HTTPStatus.NOT_FOUND, "no such plane")
        at = query.whole("z") if query.text("z") else case.size(axis) // 2
        if at >= case.size(axis):
            raise _Refused(HTTPStatus.NOT_FOUND, "no such plane")
        image, classes, depth, ratio = case.across(axis, at)
        shown, look = _look(image)
        sizes = {"height": image.shape[0], "width": image.shape[1], "ratio": ratio}
        head = {**sizes, "dtype": shown.dtype.name, "version": "", **look, "depth": depth, "z": at}
        return _binary(head, [shown, classes])

    def _opinion(self, query: "_Query") -> tuple[bytes, str]:
        plane = self.server.desk.plane(query.case, query.z)
        image, key, opinions = plane.image, (query.case, query.z), self.server.opinions
        by = query.text("by")
        if by == "outside":
            return _binary({}, [opinions.outside(key, image)])
        if by == "rule":
            said = opinions.of_rule(key, image)
        else:
            said = opinions.of_model(key, image, spacing_mm=plane.spacing_mm)
        return _binary({"classes": said.n_classes}, [said.classes])

    def _post(self, url: Any) -> tuple[bytes, str]:
        self._demand_token()
        query = _Query(url.query, self.server.desk)
        if url.path == "/api/save":
            return self._save(query)
        if url.path == "/api/decide":
            said = self._body_of_json()
            decision, note, who = (said.get(name) for name in ("decision", "note", "who"))
            who, note = str(who or ""), str(note or "")
            self.server.desk.decide(query.case, decision, note=note, who=who)
            return _json({})
        if url.path == "/api/finish":
            self._body_of_json()
            self.server.finished.set()
            return _json({})
        raise _Refused(HTTPStatus.NOT_FOUND, "nothing here")

    def _save(self, query: "_Query") -> tuple[bytes, str]:
        height, width = query.whole("height"), query.whole("width")
        if not 0 < height * width <= _PIXELS:
            raise _Refused(HTTPStatus.BAD_REQUEST, "not the size of a slice")
        content = self._body(exactly=height * width)
        classes = np.frombuffer(content, np.uint8).reshape(height, width)
        version = self.server.desk.save(
            query.case,
            query.z,
            classes,
            base=query.text("base"),
            did=query.text("did"),
            who=query.text("who"),
        )
        return _json({"version": version})

    def _body_of_json(self) -> dict[str, Any]:
        try:
            said = json.loads(self._body(most=_TEXT_BYTES))
        except (ValueError, RecursionError) as err:
            raise _Refused(HTTPStatus.BAD_REQUEST, "not JSON") from err
        if not isinstance(said, dict):
            raise _Refused(HTTPStatus.BAD_REQUEST, "not JSON of a thing")
        return said

    def _body(self, *, exactly: int | None = None, most: int = 0) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or self.headers.get("Transfer-Encoding"):
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, "say how long it is")
        size = int(length)
        if size > most if exactly is None else size != exactly:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "not of the expected size")
        content = self.rfile.read(size)
        if len(content) != size:
            raise _Refused(HTTPStatus.BAD_REQUEST, "cut off")
        return content


class _Query:
    """What an address asks for; numbers are checked, and nothing in it is a path."""

    def __init__(self, text: str, desk: Desk) -> None:
        try:
            self._values = parse_qs(text, keep_blank_values=True, max_num_fields=12)
        except ValueError as err:
            raise _Refused(HTTPStatus.BAD_REQUEST, "too much asked") from err
        self._desk = desk

    def text(self, name: str) -> str:
        return self._values.get(name, [""])[0]

    def whole(self, name: str) -> int:
        text = self.text(name)
        if not text.isascii() or not text.isdecimal() or len(text) > 9:
            raise _Refused(HTTPStatus.BAD_REQUEST, f"{name} is no number")
        return int(text)

    @property
    def case(self) -> int:
        index = self.whole("i")
        if index >= len(self._desk.entries):
            raise _Refused(HTTPStatus.NOT_FOUND, "no such case")
        return index

    @property
    def z(self) -> int:
        case = self._desk.entries[self.case].case
        z = self.whole("z") if self.text("z") else case.start
        if z >= case.depth:
            raise _Refused(HTTPStatus.NOT_FOUND, "no such slice")
        return z


def _json(content: Mapping[str, Any]) -> tuple[bytes, str]:
    return json.dumps(content).encode(), "application/json"


def _binary(head: Mapping[str, Any], arrays: Sequence[np.ndarray]) -> tuple[bytes, str]:
    """Put a head of JSON before arrays: its length in four bytes, then both, aligned to eight."""
    text = json.dumps(head).encode()
    text += b" " * (-(len(text) + 4) % 8)
    start = len(text).to_bytes(4, "little")
    body = b"".join(np.ascontiguousarray(a, a.dtype.newbyteorder("<")).tobytes() for a in arrays)
    return start + text + body, "application/octet-stream"


def _look(image: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the values to be shown, int16 where that is exact, and how to show them."""
    hu = restore_hu(image)
    shown = hu
    if hu.dtype not in (np.int16, np.uint8):
        whole = hu.dtype.kind != "f" or bool((hu == np.rint(hu)).all())
        fits = hu.min() >= _INT16.min and hu.max() <= _INT16.max
        shown = hu.astype(np.int16 if whole and fits else np.float32)
    if image.dtype == np.uint8:
        look = {"windows": {"all": [127.5, 255]}, "bounds": [0, 105], "unit": ""}
    elif image.dtype == np.uint16 and judge_hu(hu) is not None:
        low, high = float(hu.min()), float(hu.max())
        bounds = [low, low + (high - low) / 3]
        window = [(low + high) / 2, max(high - low, 1.0)]
        look = {"windows": {"all": window}, "bounds": bounds, "unit": ""}
    else:
        windows = {"lung": [-600, 1500], "soft": [40, 400]}
        look = {"windows": windows, "bounds": [-1100, -350], "unit": "HU"}
    return shown, look


def _thumb(image: np.ndarray, classes: np.ndarray) -> list[np.ndarray]:
    """Return grey and classes as squares of 56 px."""
    scale = _THUMB / max(image.shape)
    size = tuple(max(1, round(side * scale)) for side in image.shape[::-1])
    top, left = ((_THUMB - side) // 2 for side in size[::-1])
    squares = []
    for plane, how in ((show_grey(image), cv2.INTER_AREA), (classes, cv2.INTER_NEAREST)):
        square = np.zeros((_THUMB, _THUMB), np.uint8)
        small = cv2.resize(plane, size, interpolation=how)
        square[top : top + size[1], left : left + size[0]] = small
        squares.append(square)
    return squares
