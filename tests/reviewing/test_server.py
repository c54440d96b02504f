"""Who is let in, what is sent, and what a kill leaves. Asked over HTTP as any program could."""

import hashlib
import http.client
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import pytest
from browser import Page
from PIL import Image
from slices import SHAPE, lungs, write_case

import lungunet
from lungunet.reviewing.review import ReviewConfig, opened_review
from lungunet.reviewing.server import ReviewServer, page_files

QUICK = ReviewConfig(model="threshold")


@pytest.fixture
def server(pairs: list[lungunet.Pair], tmp_path: Path) -> Iterator[ReviewServer]:
    with opened_review(pairs, tmp_path / "out", config=QUICK) as opened:
        yield opened


def ask(
    server: ReviewServer,
    path: str,
    *,
    body: bytes | None = None,
    method: str = "",
    token: str | None = "",
    **headers: str,
) -> tuple[int, Mapping[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if token is not None:
        sent["X-Token"] = token or server.token
    connection.request(method or ("GET" if body is None else "POST"), path, body, sent)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, dict(answer.headers), content


def save_path(base: str, i: int = 0, size: tuple[int, int] = SHAPE) -> str:
    return f"/api/save?i={i}&z=0&height={size[0]}&width={size[1]}&base={base}&did=brush"


def version(server: ReviewServer, i: int = 0) -> str:
    return server.desk.plane(i, 0).version


class TestStrangers:
    @pytest.mark.parametrize("token", [None, "wrong", "Ä"])
    def test_without_the_token_nothing_is_told_and_nothing_changes(
        self, server: ReviewServer, token: str | None
    ) -> None:
        token = token and token.encode().decode("latin-1")
        for path in ("/api/list", "/api/slice?i=0", "/api/thumb?i=0", "/api/pulse?window=a"):
            status, _, content = ask(server, path, token=token)
            assert status == 403
            assert set(json.loads(content)) == {"error"}
        painted = np.ones(SHAPE, np.uint8).tobytes()
        assert ask(server, save_path(version(server)), body=painted, token=token)[0] == 403
        assert ask(server, "/api/finish", body=b"{}", token=token)[0] == 403
        assert not server.finished.is_set()

    @pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1"])
    def test_another_page_is_refused_even_with_the_token(
        self, server: ReviewServer, origin: str
    ) -> None:
        assert ask(server, "/api/list", Origin=origin)[0] == 403
        assert ask(server, "/", Origin=origin)[0] == 403
        assert ask(server, "/api/list", Sec_Fetch_Site="cross-site")[0] == 403

    @pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "127.0.0.1:1"])
    def test_another_name_for_this_machine_is_refused(
        self, server: ReviewServer, host: str
    ) -> None:
        named = host if host.endswith(":1") else f"{host}:{server.server_port}"
        assert ask(server, "/", Host=named)[0] == 403
        assert ask(server, "/api/list", Host=f"localhost:{server.server_port}")[0] == 200

    def test_a_link_elsewhere_opens_the_page_and_no_more(self, server: ReviewServer) -> None:
        opened = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        window = {**opened, "Sec-Fetch-Dest": "document"}
        assert ask(server, "/", token=None, **window)[0] == 200
        assert ask(server, "/", Origin="http://evil.example", **window)[0] == 403
        assert ask(server, "/", **opened, **{"Sec-Fetch-Dest": "iframe"})[0] == 403
        for path in ("/api/list", "/main.js", "/?a=1"):
            assert ask(server, path, **window)[0] == 403
        assert ask(server, "/api/finish", body=b"{}", **window)[0] == 403
        assert not server.finished.is_set()

    def test_own_pages_are_let_in(self, server: ReviewServer) -> None:
        origin = f"http://127.0.0.1:{server.server_port}"
        assert ask(server, "/api/list", Origin=origin, Sec_Fetch_Site="same-origin")[0] == 200

    def test_the_policy_lets_the_page_load_its_own_files_alone(self, server: ReviewServer) -> None:
        _, headers, _ = ask(server, "/", token=None)
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["Cache-Control"] == "no-store"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "Access-Control-Allow-Origin" not in headers


class TestRequests:
    @pytest.mark.parametrize(
        "path",
        [
            *("/../../etc/passwd", "/page/main.js", "/%2e%2e/server.py", "//etc/passwd", "/api"),
            *("/api/slice?i=3", "/api/slice?i=0&z=1"),
        ],
    )
    def test_nothing_but_what_is_there_is_sent(self, server: ReviewServer, path: str) -> None:
        assert ask(server, path)[0] == 404

    @pytest.mark.parametrize(
        "path", ["/api/slice", "/api/slice?i=-1", "/api/slice?i=../a", "/api/thumb?i=1e3"]
    )
    def test_cases_are_numbers(self, server: ReviewServer, path: str) -> None:
        assert ask(server, path)[0] == 400

    def test_a_mask_of_another_size_or_with_unknown_classes_is_refused(
        self, server: ReviewServer
    ) -> None:
        base = version(server)
        ones = np.ones(SHAPE, np.uint8)
        assert ask(server, save_path(base), body=ones[1:].tobytes())[0] == 413
        other = save_path(base, size=(71, 96))
        status, _, content = ask(server, other, body=ones[1:].tobytes())
        assert (status, "71x96" in content.decode()) == (422, True)
        status, _, content = ask(server, save_path(base), body=(2 * ones).tobytes())
        assert (status, "class 2" in content.decode()) == (422, True)
        assert ask(server, save_path(base, size=(99999, 99999)), body=b"")[0] == 400
        assert version(server) == base

    def test_long_bodies_are_not_read(self, server: ReviewServer) -> None:
        status, headers, _ = ask(server, "/api/decide?i=0", body=b"x" * 20_000)
        assert (status, headers["Connection"]) == (413, "close")
        assert ask(server, "/api/decide?i=0", body=b"[1]")[0] == 400
        assert ask(server, "/api/decide?i=0", body=b'{"decision": "maybe"}')[0] == 422

    def test_an_old_version_is_refused(self, server: ReviewServer) -> None:
        ones = np.ones(SHAPE, np.uint8).tobytes()
        base = version(server)
        assert ask(server, save_path(base), body=ones)[0] == 200
        assert ask(server, save_path(base), body=ones)[0] == 409

    def test_addresses_hold_no_name(self, server: ReviewServer) -> None:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/#[\w-]{32}", server.address)
        assert not re.search(r"lost|right|void", json.dumps([*page_files()]))


def test_the_page_is_small_and_asks_nobody_else() -> None:
    files = page_files()
    assert sum(len(content) for content, _ in files.values()) < 300_000
    for name, (content, _) in files.items():
        outside = re.findall(rb"https?://[^\"' ]+", content)
        assert set(outside) <= {b"http://www.w3.org/2000/svg"}, name


def test_the_browser_is_started_on_a_private_file_and_not_on_the_token(
    page: Page, pairs: list[lungunet.Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    opened: list[Path] = []

    def open_browser(address: str) -> None:
        assert shown[0].partition("#")[2] not in address
        opened.append(Path(url2pathname(urlsplit(address).path)))
        assert [stat.S_IMODE(p.stat().st_mode) for p in (opened[0], opened[0].parent)] == [
            *(0o600, 0o700)
        ]
        page.tab.open(address)
        page.tab.wait(f"location.href === {json.dumps(shown[0])}")
        page.wait_for_slice()
        page.tab.click("#finish")
        page.tab.wait("document.body.textContent.includes('Finished')")

    monkeypatch.setattr("webbrowser.open", open_browser)
    lungunet.review(pairs, tmp_path / "out", config=QUICK, show=shown.append)
    assert not opened[0].parent.exists()


def test_another_host_is_listened_on_only_when_asked(
    pairs: list[lungunet.Pair], tmp_path: Path
) -> None:
    with opened_review(pairs, tmp_path / "a", config=QUICK) as server:
        assert server.server_address[0] == "127.0.0.1"
    everywhere = ReviewConfig(model="threshold", host="0.0.0.0")
    with opened_review(pairs, tmp_path / "b", config=everywhere) as server:
        port = server.server_port
        assert ask(server, "/api/list", Host=f"192.168.7.7:{port}")[0] == 200
        assert ask(server, "/api/list", Host=f"evil.example:{port}")[0] == 403
        assert ask(server, "/api/list", token=None)[0] == 403


CHILD = """
import sys
import lungunet
lungunet.review(
    [lungunet.Pair(*sys.argv[1:3])], sys.argv[3],
    config=lungunet.ReviewConfig(model="threshold", browser=False),
    show=lambda address: print(address, flush=True),
)
"""


@contextmanager
def serving_apart(pair: lungunet.Pair, out: Path) -> Iterator[tuple[int, int, str]]:
    """Serve in a process of its own: yields its number, its port and its token."""
    command = [sys.executable, "-c", CHILD, str(pair.image), str(pair.mask), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            found = re.fullmatch(r"http://127.0.0.1:(\d+)/#(\S+)\n", child.stdout.readline())
            assert found is not None
            yield child.pid, int(found[1]), found[2]
        finally:
            child.kill()


def test_a_kill_in_the_middle_of_saves_loses_nothing_that_was_saved(tmp_path: Path) -> None:
    pair = write_case(tmp_path, "one", lungs().astype(np.uint8) * 255)
    first = pair.require_mask().read_bytes()
    out = tmp_path / "out"
    mask, log = out / "one.png", out / "review.jsonl"
    rng = np.random.default_rng(0)
    shown = hashlib.sha256(first).hexdigest()
    for last in (3, 40, 57):  # a hundred in all; of these each the last is not waited for
        with serving_apart(pair, out) as (child, port, token):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            for number in range(last + 1):
                sent = rng.integers(0, 2, SHAPE).astype(np.uint8).tobytes()
                connection.request("POST", save_path(shown), sent, {"X-Token": token})
                if number == last:
                    time.sleep(float(rng.uniform(0, 0.08)))
                    os.kill(child, signal.SIGKILL)
                    break
                answer = connection.getresponse()
                assert answer.status == 200
                shown = json.loads(answer.read())["version"]
            connection.close()
        with Image.open(mask) as image:  # whole
            assert np.asarray(image).shape == SHAPE
        found = hashlib.sha256(mask.read_bytes()).hexdigest()
        end = json.loads(log.read_text().split("\n")[-2])
        assert found in (end["before"], end["after"])
        assert shown in (end["before"], end["after"])
        assert (out / ".review" / "one.orig.png").read_bytes() == first
        shown = found
    with opened_review([pair], out, config=QUICK) as server:  # whoever comes next sets it right
        assert server.desk.log.cases["one"].last == shown


def test_a_log_and_a_mask_that_disagree_are_set_right(tmp_path: Path) -> None:
    """As after a kill between the two: the log tells of a change that the mask does not hold."""
    pair = write_case(tmp_path, "one", np.zeros(SHAPE, np.uint8))
    out = tmp_path / "out"
    with opened_review([pair], out, config=QUICK) as server:
        assert ask(server, save_path(version(server)), body=b"\1" * 72 * 96)[0] == 200
    mask = out / "one.png"
    before = (out / ".review" / "one.orig.png").read_bytes()
    mask.write_bytes(before)
    with (out / "review.jsonl").open("a") as log:
        log.write('{"name": "one", "did": "cut of')
    with opened_review([pair], out, config=QUICK) as server:
        assert server.desk.log.cases["one"].last == hashlib.sha256(before).hexdigest()
    assert [json.loads(line) for line in (out / "review.jsonl").read_text().splitlines()][-1][
        "did"
    ] == "not as logged"
