"""A real Chromium, driven by its own protocol over a web socket: as much of it as tests need."""

import base64
import json
import os
import secrets
import shutil
import socket
import struct
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
_BUTTONS = {"left": 1, "right": 2, "middle": 4, "none": 0}
_KEYS = {"Enter": 13, "ArrowDown": 40, "ArrowUp": 38, "ArrowLeft": 37, "ArrowRight": 39, " ": 32}
_AWAITED = {"awaitPromise": True, "returnByValue": True}


class Socket:
    """The client's end of a web socket (RFC 6455): whole text messages alone."""

    def __init__(self, url: str) -> None:
        host, _, path = url.removeprefix("ws://").partition("/")
        name, _, port = host.partition(":")
        self._socket = socket.create_connection((name, int(port)), timeout=60)
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        self._socket.sendall(
            f"GET /{path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self._rest = b""
        while b"\r\n\r\n" not in self._rest:
            self._rest += self._socket.recv(65536)
        head, self._rest = self._rest.split(b"\r\n\r\n", 1)
        assert b" 101 " in head.split(b"\r\n")[0]

    def send(self, text: str) -> None:
        data, mask = text.encode(), secrets.token_bytes(4)
        size = len(data)
        if size < 126:
            head = struct.pack("!BB", 0x81, 0x80 | size)
        elif size < 65536:
            head = struct.pack("!BBH", 0x81, 0x80 | 126, size)
        else:
            head = struct.pack("!BBQ", 0x81, 0x80 | 127, size)
        masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))
        self._socket.sendall(head + mask + masked)

    def receive(self) -> str:
        whole = b""
        while True:
            first, second = self._take(2)
            size = second & 127
            if size == 126:
                (size,) = struct.unpack("!H", self._take(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", self._take(8))
            data = self._take(size)
            if first & 15 in (0, 1):
                whole += data
                if first & 128:
                    return whole.decode()

    def _take(self, count: int) -> bytes:
        while len(self._rest) < count:
            more = self._socket.recv(1 << 20)
            if not more:
                raise ConnectionError("the browser has ended")
            self._rest += more
        taken, self._rest = self._rest[:count], self._rest[count:]
        return taken

    def close(self) -> None:
        self._socket.close()


class MovedOnError(Exception):
    """The page went to another address while it was asked."""


class Tab:
    """One page in the browser."""

    def __init__(self, url: str) -> None:
        self._socket = Socket(url)
        self._number = 0
        self.said: list[str] = []  # on the console, and what was not caught
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            answer = json.loads(self._socket.receive())
            self._listen(answer)
            if answer.get("id") == self._number:
                if "navigated" in answer.get("error", {}).get("message", ""):
                    raise MovedOnError
                assert "error" not in answer, answer
                return answer["result"]

    def _listen(self, event: Mapping[str, Any]) -> None:
        params = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.said.append(json.dumps(params["exceptionDetails"])[:500])
        elif event.get("method") == "Runtime.consoleAPICalled":
            self.said.append(json.dumps(params["args"])[:500])
        elif event.get("method") == "Log.entryAdded":
            self.said.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    def js(self, expression: str) -> Any:
        """Return the value of an expression, awaited."""
        found = self.call("Runtime.evaluate", expression=expression, **_AWAITED)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, expression: str, seconds: float = 20) -> Any:
        """Wait until an expression is true; one that throws, as on half a page, is not yet."""
        end = time.monotonic() + seconds
        while True:
            found: dict[str, Any] = {}
            with suppress(MovedOnError):
                found = self.call("Runtime.evaluate", expression=expression, **_AWAITED)
                value = found["result"].get("value")
                if value and "exceptionDetails" not in found:
                    return value
            assert time.monotonic() < end, f"never came: {expression}; {found}; {self.said}"
            time.sleep(0.02)

    def open(self, address: str, size: tuple[int, int] = (1280, 720), dense: float = 1) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            **{"width": size[0], "height": size[1], "deviceScaleFactor": dense, "mobile": False},
        )
        self.front()
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete'")

    def front(self) -> None:
        """Come before other tabs: hidden ones draw nothing."""
        self.call("Page.bringToFront")

    def key(self, key: str, *, ctrl: bool = False, shift: bool = False) -> None:
        params: dict[str, Any] = {"key": key, "modifiers": 2 * ctrl + 8 * shift}
        code = _KEYS.get(key, ord(key.upper()) if len(key) == 1 else 0)
        text = "\r" if key == "Enter" else key if len(key) == 1 and not ctrl else ""
        params["windowsVirtualKeyCode"] = code
        kind = "keyDown" if text else "rawKeyDown"
        self.call("Input.dispatchKeyEvent", type=kind, **params, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **params)

    def mouse(self, kind: str, x: float, y: float, button: str = "left", **more: Any) -> None:
        held = 0 if kind == "mouseReleased" else _BUTTONS[button]
        self.call(
            "Input.dispatchMouseEvent",
            **{"type": kind, "x": x, "y": y, "button": button, "buttons": held},
            **{"clickCount": 1, "pointerType": "mouse", **more},
        )

    def drag(
        self, *places: tuple[float, float], button: str = "left", pointer: str = "mouse"
    ) -> None:
        """Press at the first place, go through the others, let go."""
        self.mouse("mouseMoved", *places[0], button="none", pointerType=pointer)
        self.mouse("mousePressed", *places[0], button, pointerType=pointer)
        for place in places[1:]:
            self.mouse("mouseMoved", *place, button, pointerType=pointer)
        self.mouse("mouseReleased", *places[-1], button, pointerType=pointer)

    def touch(self, kind: str, *fingers: tuple[float, float]) -> None:
        """Say where all fingers are: touchStart, touchMove; after touchEnd those that stay."""
        points = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(fingers)]
        self.call("Input.dispatchTouchEvent", type=kind, touchPoints=points)

    def swipe(self, *places: tuple[float, float]) -> None:
        """Draw with one finger."""
        self.touch("touchStart", places[0])
        for place in places[1:]:
            self.touch("touchMove", place)
        self.touch("touchEnd")

    def wheel(self, x: float, y: float, down: float, *, ctrl: bool = False) -> None:
        self.mouse("mouseWheel", x, y, "none", deltaX=0, deltaY=down, modifiers=2 if ctrl else 0)

    def click(self, selector: str) -> None:
        """Click with the mouse in the middle of an element, as far as a hand could reach it."""
        box = self.js(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'nearest'}); const b = e.getBoundingClientRect();"
            "return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        self.drag((box[0], box[1]))

    def shoot(self, path: Path) -> None:
        picture = self.call("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(picture))

    def close(self) -> None:
        self._socket.close()


@contextmanager
def browser(folder: Path) -> Iterator[Callable[[], Tab]]:
    """Run Chromium; yields what opens another tab."""
    profile = folder / "profile"
    command = [
        *(CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"),
        *("--disable-background-networking", "--disable-dev-shm-usage", "--hide-scrollbars"),
        *("--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
        *("--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"),
    ]
    home = {**os.environ, "HOME": str(folder)}  # Chromium leaves crash settings there
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=home)
    tabs: list[Tab] = []
    try:
        file = profile / "DevToolsActivePort"
        end = time.monotonic() + 60
        while not file.exists() or "\n" not in file.read_text():
            assert process.poll() is None, "no Chromium"
            assert time.monotonic() < end, "Chromium does not start"
            time.sleep(0.05)
        port = int(file.read_text().split("\n")[0])

        def new_tab() -> Tab:
            asked = urllib.request.Request(
                f"http://127.0.0.1:{port}/json/new?about:blank", method="PUT"
            )
            with urllib.request.urlopen(asked) as answer:
                found = json.load(answer)
            tabs.append(Tab(found["webSocketDebuggerUrl"]))
            return tabs[-1]

        yield new_tab
    finally:
        for tab in tabs:
            tab.close()
        process.terminate()
        process.wait(30)


class Page:
    """The review's page in a tab: what a hand does with it."""

    def __init__(self, tab: Tab) -> None:
        self.tab = tab

    def open(self, address: str, size: tuple[int, int] = (1280, 720), dense: float = 1) -> None:
        self.tab.open(address, size, dense)
        self.wait_for_slice()

    def wait_for_slice(self, name: str = "") -> None:
        self.tab.wait(
            "document.getElementById('view').dataset.scale && "
            f"document.getElementById('name').textContent.startsWith({json.dumps(name)}) && "
            "document.getElementById('name').textContent.trim() !== ''"
        )
        self.tab.js("new Promise(go => requestAnimationFrame(() => requestAnimationFrame(go)))")

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where on the screen the middle of a pixel of the slice is."""
        scale, left, top, dense, box_x, box_y = self.tab.js(
            "(() => { const c = document.getElementById('view'); const b = "
            "c.getBoundingClientRect(); return [Number(c.dataset.scale), Number(c.dataset.left), "
            "Number(c.dataset.top), c.width / b.width, b.x, b.y]; })()"
        )
        return (
            box_x + (left + (x + 0.5) * scale) / dense,
            box_y + (top + (y + 0.5) * scale) / dense,
        )

    def canvases(self, selector: str = "#view") -> list[np.ndarray]:
        """Return what canvases show, (H, W, 4) uint8 each."""
        pictures = self.tab.js(
            f"[...document.querySelectorAll({json.dumps(selector)})].map(c => c.toDataURL())"
        )
        contents = [base64.b64decode(picture.partition(",")[2]) for picture in pictures]
        return [np.asarray(Image.open(BytesIO(content)).convert("RGBA")) for content in contents]

    def draw(self, *pixels: tuple[float, float]) -> None:
        self._forget_saved()
        self.tab.drag(*(self.at(x, y) for x, y in pixels))

    def _forget_saved(self) -> None:
        self.tab.js("void (document.getElementById('saved').textContent = '')")

    def key(self, key: str, **held: bool) -> None:
        self._forget_saved()
        self.tab.key(key, **held)

    def size(self, px: int) -> None:
        self.tab.js(
            f"(() => {{ const s = document.getElementById('size'); s.value = {px};"
            "s.dispatchEvent(new Event('input')); })()"
        )

    def text(self, selector: str) -> str:
        return self.tab.js(f"document.querySelector({json.dumps(selector)}).textContent")

    def saved(self) -> None:
        """Wait until what the last key or stroke did is on disk."""
        self.tab.wait("document.getElementById('saved').textContent === 'saved'")

    def wait_for_lung(self, x: int, y: int) -> None:
        """Wait until the page says that a pixel is lung."""
        across, down = self.at(x, y)
        self.tab.wait(
            "(() => { document.getElementById('view').dispatchEvent(new PointerEvent("
            f"'pointermove', {{clientX: {across}, clientY: {down}}}));"
            "return document.getElementById('value').textContent.endsWith('lung') })()"
        )

    def frame(self) -> None:
        self.tab.js("new Promise(go => requestAnimationFrame(() => requestAnimationFrame(go)))")
