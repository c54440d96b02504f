"""The page in a real browser: what is drawn is what is on disk, to the pixel."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Page, Tab
from PIL import Image
from scipy import ndimage
from slices import SHAPE, body, lungs, write_case

import lungunet
from lungunet.reviewing.review import ReviewConfig, opened_review
from lungunet.reviewing.server import ReviewServer

QUICK = ReviewConfig(model="threshold")


@contextmanager
def reviewing(
    page: Page, pairs: list[lungunet.Pair], out: Path, config: ReviewConfig = QUICK
) -> Iterator[ReviewServer]:
    with opened_review(pairs, out, config=config) as server:
        page.open(server.address)
        yield server
        page.tab.call("Page.navigate", url="about:blank")  # it would miss the server, and say so


def on_disk(path: Path) -> np.ndarray:
    """Read a mask with a reader of its own."""
    with Image.open(path) as image:
        return np.asarray(image).copy()


def disk(x: int, y: int, size: int) -> np.ndarray:
    """Every pixel whose middle is within half the size of that of (x, y), or of its corner."""
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    shift = 0.5 if size % 2 else 1.0  # odd sizes sit on a pixel, even ones on a corner
    far = (columns + 0.5 - x - shift) ** 2 + (rows + 0.5 - y - shift) ** 2
    return far <= (size / 2) ** 2


def log_of(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "review.jsonl").read_text().splitlines()]


@pytest.fixture
def void(pairs: list[lungunet.Pair]) -> list[lungunet.Pair]:
    return [pairs[2]]


@pytest.mark.parametrize("zoom", ["fit", "far", "near", "dense"])
def test_dabs_are_on_disk_to_the_pixel_at_every_zoom(
    page: Page, void: list[lungunet.Pair], tmp_path: Path, zoom: str
) -> None:
    out = tmp_path / "out"
    dabs = {1: (36, 25), 2: (41, 26), 7: (48, 28), 12: (40, 36)}
    with opened_review(void, out, config=QUICK) as server:
        page.open(server.address, dense=2 if zoom == "dense" else 1)
        if zoom in ("near", "far"):
            page.tab.wheel(*page.at(42, 30), -500 if zoom == "near" else 900)
            page.frame()
        for size, (x, y) in dabs.items():
            page.size(size)
            page.draw((x + 0.2, y + 0.2))  # nearer to the corner below on the right than to others
            page.saved()
    drawn = on_disk(out / "void.png")
    wanted = np.logical_or.reduce([disk(*place, size) for size, place in dabs.items()])
    assert np.argwhere(drawn).tolist() == np.argwhere(wanted).tolist()
    assert set(np.unique(drawn)) == {0, 255}


def test_a_stroke_covers_its_way_and_an_eraser_takes_it_back(
    page: Page, void: list[lungunet.Pair], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with reviewing(page, void, out):
        page.size(1)
        page.draw((20, 40), (50, 40))
        page.saved()
        drawn = on_disk(out / "void.png")
        assert np.array_equal(np.argwhere(drawn), [[40, x] for x in range(20, 51)])
        page.key("e")
        page.draw((30, 40), (35, 40))
        page.saved()
        drawn = on_disk(out / "void.png")
    assert sorted(np.argwhere(drawn)[:, 1]) == [*range(20, 30), *range(36, 51)]


@pytest.mark.parametrize("zoom", [0, -300])
@pytest.mark.parametrize("filled", [False, True])
def test_a_stroke_draws_what_it_touches_alone_and_looks_as_if_all_were_drawn(
    page: Page, pairs: list[lungunet.Pair], tmp_path: Path, filled: bool, zoom: int
) -> None:
    with reviewing(page, [pairs[0]], tmp_path / "out"):
        if filled:
            page.key("o")
        if zoom:
            page.tab.wheel(*page.at(44, 34), zoom)
        page.size(4)
        page.frame()
        page.tab.js(
            """void (() => {
                const fill = CanvasRenderingContext2D.prototype.fillRect;
                window.drawn = [];
                CanvasRenderingContext2D.prototype.fillRect = function (x, y, wide, high) {
                    window.drawn.push(wide * high / (this.canvas.width * this.canvas.height));
                    fill.call(this, x, y, wide, high);
                };
            })()"""
        )
        places = [page.at(30 + step, 28 + step % 5) for step in range(20)]
        page.tab.mouse("mouseMoved", *places[0], button="none")
        page.tab.mouse("mousePressed", *places[0])
        for place in places:
            page.tab.mouse("mouseMoved", *place)
            page.frame()
        shares = page.tab.js("window.drawn")
        assert len(shares) > 1
        assert max(shares) < 0.4  # the whole way in one, where the machine is slow
        drawn = page.canvases()[0].astype(int)
        page.tab.js("void document.getElementById('opacity').dispatchEvent(new Event('input'))")
        page.frame()
        assert page.tab.js("window.drawn.at(-1)") == 1
        afresh = page.canvases()[0]
        page.tab.mouse("mouseReleased", *places[-1])
        page.saved()
    assert np.abs(drawn - afresh).max() <= 1  # of 255: smooth lines that begin elsewhere


def test_the_first_version_is_kept_and_the_log_agrees_with_the_file(
    page: Page, pairs: list[lungunet.Pair], tmp_path: Path
) -> None:
    out, source = tmp_path / "out", pairs[1].require_mask()
    before = source.read_bytes()
    with reviewing(page, [pairs[1]], out):
        page.size(5)
        page.draw((10, 10))
        page.saved()
        page.draw((80, 60))
        page.saved()
    mask = out / "right.png"
    assert source.read_bytes() == before
    assert (out / ".review" / "right.orig.png").read_bytes() == before
    head, *records = log_of(out)
    assert head["format"] == 1
    assert [record["did"] for record in records] == ["brush", "brush"]
    assert [record["pixels"] for record in records] == [int(disk(10, 10, 5).sum())] * 2
    assert records[0]["before"] == hashlib.sha256(before).hexdigest()
    assert records[0]["after"] == records[1]["before"]
    assert records[1]["after"] == hashlib.sha256(mask.read_bytes()).hexdigest()
    assert lungunet.read_review(out).cases["right"].mask == mask


def test_undo_and_redo_go_all_the_way(
    page: Page, void: list[lungunet.Pair], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with reviewing(page, void, out):
        page.size(3)
        states = [on_disk(out / "void.png")]
        for x in range(10, 70, 12):
            page.draw((x, 20), (x + 4, 26))
            page.saved()
            states.append(on_disk(out / "void.png"))
        for state in reversed(states[:-1]):
            page.key("z", ctrl=True)
            page.saved()
            assert np.array_equal(on_disk(out / "void.png"), state)
        page.key("z", ctrl=True)  # no further
        for state in states[1:]:
            page.key("y", ctrl=True)
            page.saved()
            assert np.array_equal(on_disk(out / "void.png"), state)
        assert page.tab.js("document.querySelector('[data-act=redo]').disabled")


class TestTools:
    def test_fill_needs_a_closed_outline(
        self, page: Page, void: list[lungunet.Pair], tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        with reviewing(page, void, out):
            page.key("f")
            page.draw((40, 40))
            page.tab.wait("document.getElementById('saved').textContent.includes('outline')")
            page.key("b")
            page.size(1)
            page.draw((20, 20), (50, 20), (50, 50), (20, 50), (20, 20))
            page.key("f")
            page.draw((40, 40))
            page.saved()
            drawn = on_disk(out / "void.png")
        wanted = np.zeros(SHAPE, np.uint8)
        wanted[20:51, 20:51] = 255
        assert np.array_equal(drawn, wanted)

    def test_lung_here_grows_to_the_lung_with_its_vessel_and_not_around_the_body(
        self, page: Page, void: list[lungunet.Pair], tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        with reviewing(page, void, out):
            page.key("g")
            page.draw((2, 2))
            page.tab.wait("document.getElementById('saved').textContent.includes('outside')")
            page.draw((48, 34))
            page.tab.wait("document.getElementById('saved').textContent.includes('bounds')")
            page.draw((30, 25))
            page.saved()
            drawn = on_disk(out / "void.png")
        wanted = lungs()
        wanted[:, 48:] = False
        assert np.array_equal(drawn > 0, wanted)

    def test_remove_takes_one_piece_and_close_holes_all_of_them(
        self, page: Page, tmp_path: Path
    ) -> None:
        mask = lungs()
        mask[30:33, 28:31] = mask[40, 66] = False
        mask[33, 31] = False  # leads on across a corner, which is no way out
        pair = write_case(tmp_path, "holes", mask.astype(np.uint8) * 255)
        out = tmp_path / "out"
        with reviewing(page, [pair], out):
            page.key("h")
            page.saved()
            filled = ndimage.binary_fill_holes(mask)
            assert np.array_equal(on_disk(out / "holes.png") > 0, filled)
            page.key("x")
            page.draw((66, 34))
            page.saved()
            assert page.text("#value").endswith("background")  # of a pointer that did not move
            filled[:, 48:] = False
            assert np.array_equal(on_disk(out / "holes.png") > 0, filled)

    def test_masks_of_model_and_threshold_and_the_first_version_are_taken(
        self, page: Page, pairs: list[lungunet.Pair], tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        seen = lungunet.segment_lungs(body(0))
        with reviewing(page, [pairs[0]], out):
            page.key("t")
            page.saved()
            assert np.array_equal(on_disk(out / "lost.png"), seen * 255)
            page.key("r")
            page.saved()
            assert np.array_equal(on_disk(out / "lost.png"), on_disk(pairs[0].require_mask()))
            page.key("m")  # the model here is the threshold
            page.saved()
            assert np.array_equal(on_disk(out / "lost.png"), seen * 255)
        assert [record["did"] for record in log_of(out)[1:]] == [
            *("take threshold", "first version", "take model")
        ]

    def test_classes_have_a_palette_and_sides_can_be_swapped(
        self, page: Page, tmp_path: Path
    ) -> None:
        raw = np.zeros(SHAPE, np.uint8)
        raw[lungs()] = 3
        raw[:, 48:][raw[:, 48:] > 0] = 5
        raw[10:12, 40:44] = 4  # of the same class as 3: it keeps its value where nobody draws
        pair = write_case(tmp_path, "sides", raw)
        out = tmp_path / "out"
        config = ReviewConfig(
            model="threshold", codec=lungunet.LabelCodec.parse("0,3=1,4=1,5=2:0,3,5")
        )
        with reviewing(page, [pair], out, config):
            page.key("2")
            page.size(3)
            page.draw((70, 65))
            page.saved()
            wanted = raw.copy()
            wanted[disk(70, 65, 3)] = 5
            assert np.array_equal(on_disk(out / "sides.png"), wanted)
            page.key("s")
            page.saved()
            swapped = np.choose(np.searchsorted([0, 3, 4, 5], wanted), [0, 5, 5, 3])
            assert np.array_equal(on_disk(out / "sides.png"), swapped)
            page.tab.click("[data-value='1']")
            page.key("f")
            page.draw((42, 11))
            page.saved()
            swapped[10:12, 40:44] = 3
            assert np.array_equal(on_disk(out / "sides.png"), swapped)


def line(x0: int, x1: int, y: int) -> np.ndarray:
    """Pixels of a row."""
    drawn = np.zeros(SHAPE, bool)
    drawn[y, x0 : x1 + 1] = True
    return drawn


def where(page: Page) -> tuple[float, float, float]:
    """Zoom and place of the slice in the canvas."""
    names = page.tab.js("({...document.getElementById('view').dataset})")
    return float(names["scale"]), float(names["left"]), float(names["top"])


class TestPenAndTouch:
    def test_a_finger_draws(self, page: Page, void: list[lungunet.Pair], tmp_path: Path) -> None:
        out = tmp_path / "out"
        with reviewing(page, void, out):
            page.size(1)
            page.tab.swipe(page.at(20, 40), page.at(35, 40), page.at(50, 40))
            page.saved()
        assert np.array_equal(on_disk(out / "void.png") > 0, line(20, 50, 40))

    @pytest.mark.parametrize("tool", ["b", "e", "f", "x", "g"])
    def test_two_fingers_zoom_and_move_and_leave_no_trace(
        self, page: Page, pairs: list[lungunet.Pair], tmp_path: Path, tool: str
    ) -> None:
        out = tmp_path / "out"
        with reviewing(page, [pairs[0]], out):
            before = on_disk(out / "lost.png")
            page.key("t")  # so that the tools have all they ask the server for
            page.saved()
            page.key("r")
            page.saved()
            page.key(tool)
            scale, left, top = where(page)
            (x0, y0), (x1, y1) = page.at(30, 25), page.at(60, 25)  # on lung
            page.tab.touch("touchStart", (x0, y0))
            page.tab.touch("touchMove", (x0 + 3, y0))
            page.tab.touch("touchStart", (x0 + 3, y0), (x1, y1))
            page.tab.touch("touchMove", (x0 + 3 - 50, y0), (x1 + 50, y1))
            page.tab.touch("touchMove", (x0 + 3 - 50, y0 + 30), (x1 + 50, y1 + 30))
            page.tab.touch("touchEnd", (x0 + 3 - 50, y0 + 30))  # one stays, and moves on
            page.tab.touch("touchMove", (x0 + 90, y0 + 60))
            page.tab.touch("touchEnd")
            page.frame()
            apart = x1 - x0 - 3
            new_scale, new_left, new_top = where(page)
            assert new_scale == pytest.approx(scale * (apart + 100) / apart)
            middle = (x0 + 3 + x1) / 2 - page.tab.js(
                "document.getElementById('view').getBoundingClientRect().x"
            )
            assert (middle - new_left) / new_scale == pytest.approx((middle - left) / scale)
            assert new_top != top
            assert page.tab.js("document.querySelector('[data-act=undo]').disabled") is False
        assert np.array_equal(on_disk(out / "lost.png"), before)
        assert [record["did"] for record in log_of(out)[1:]] == ["take threshold", "first version"]

    def test_a_tap_removes_the_piece_under_it(
        self, page: Page, pairs: list[lungunet.Pair], tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        with reviewing(page, [pairs[1]], out):
            page.key("x")
            page.tab.swipe(page.at(66, 25))
            page.saved()
        wanted = lungs()
        wanted[:, 48:] = False
        assert np.array_equal(on_disk(out / "right.png") > 0, wanted)

    def test_a_pen_draws_at_one_width_and_then_fingers_move(
        self, page: Page, void: list[lungunet.Pair], tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        with reviewing(page, void, out):
            page.size(1)
            tab = page.tab
            start, end = page.at(20, 40), page.at(50, 40)
            for kind, place, force in (
                ("mouseMoved", start, 0.0),
                ("mousePressed", start, 0.1),
                ("mouseMoved", page.at(35, 40), 1.0),
                ("mouseMoved", end, 0.3),
                ("mouseReleased", end, 0.0),
            ):
                button = "none" if place == start and kind == "mouseMoved" else "left"
                tab.mouse(kind, *place, button, pointerType="pen", force=force)
            page.saved()
            scale, left, top = where(page)
            tab.swipe(page.at(30, 20), page.at(40, 20))
            page.frame()
            assert where(page) == pytest.approx((scale, left + 10 * scale, top))
        assert np.array_equal(on_disk(out / "void.png") > 0, line(20, 50, 40))

    def test_a_hand_that_rests_beside_the_pen_does_nothing(
        self, page: Page, void: list[lungunet.Pair], tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        with reviewing(page, void, out):
            page.size(1)
            places = [page.at(x, 40) for x in (20, 30, 40, 50)]
            palm = page.at(60, 60)
            page.tab.mouse("mousePressed", *places[0], pointerType="pen")
            page.tab.touch("touchStart", palm)
            page.tab.mouse("mouseMoved", *places[1], pointerType="pen")
            page.tab.touch("touchMove", page.at(62, 61))
            page.tab.mouse("mouseMoved", *places[2], pointerType="pen")
            page.tab.touch("touchEnd")
            page.tab.mouse("mouseMoved", *places[3], pointerType="pen")
            page.tab.mouse("mouseReleased", *places[3], pointerType="pen")
            page.saved()
        assert np.array_equal(on_disk(out / "void.png") > 0, line(20, 50, 40))
        assert len(log_of(out)) == 2

    def test_the_other_end_of_a_pen_erases(
        self, page: Page, pairs: list[lungunet.Pair], tmp_path: Path
    ) -> None:
        """By events of the page's own: the browser's protocol knows no such button."""
        out = tmp_path / "out"
        with reviewing(page, [pairs[1]], out):
            page.size(3)
            x, y = page.at(30, 25)
            page.tab.mouse("mouseMoved", x, y, button="none")  # pointer 1 is there
            page.tab.js(
                f"""void (() => {{
                    const view = document.getElementById("view");
                    const pen = {{ clientX: {x}, clientY: {y}, pointerId: 1, pointerType: "pen" }};
                    view.dispatchEvent(
                        new PointerEvent("pointerdown", {{ ...pen, button: 5, buttons: 32 }}));
                    view.dispatchEvent(new PointerEvent("pointerup", {{ ...pen, button: 5 }}));
                }})()"""
            )
            page.saved()
        assert np.array_equal(on_disk(out / "right.png") > 0, lungs() & ~disk(30, 25, 3))


class TestWindow:
    def test_values_of_the_file_are_shown_and_a_right_drag_sets_the_window(
        self, page: Page, pairs: list[lungunet.Pair], tmp_path: Path
    ) -> None:
        with reviewing(page, [pairs[1]], tmp_path / "out"):
            for x, y in ((0, 0), (95, 71), (30, 25), (48, 34)):
                page.tab.mouse("mouseMoved", *page.at(x, y), button="none")
                page.frame()
                assert page.text("#value").startswith(f"{x}, {y}   {body(1)[y, x]} HU")
            assert page.text("#window") == "level -600  width 1500"
            page.tab.drag(page.at(40, 30), page.at(50, 30), button="right")
            page.frame()
            width = int(page.text("#window").rpartition(" ")[2])
            assert width > 1500
            page.key("k")
            assert page.text("#window") == "level 40  width 400"
        assert not (tmp_path / "out" / ".review" / "right.orig.png").exists()  # nothing was drawn

    def test_eight_bits_have_a_window_of_their_own(self, page: Page, tmp_path: Path) -> None:
        grey = ((body().astype(float) + 1100) / 1300 * 255).clip(0, 255).astype(np.uint8)
        pair = lungunet.Pair(tmp_path / "grey.png", tmp_path / "m" / "grey.png")
        lungunet.write_image(pair.image, grey)
        lungunet.write_mask(pair.require_mask(), np.zeros(SHAPE, np.uint8))
        with reviewing(page, [pair], tmp_path / "out"):
            assert page.text("#window") == "level 128  width 255"
            page.tab.mouse("mouseMoved", *page.at(30, 25), button="none")
            page.frame()
            assert page.text("#value").split()[2] == str(grey[25, 30])


class TestDecisions:
    def test_enter_says_right_or_mended_and_goes_on(
        self, page: Page, pairs: list[lungunet.Pair], tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        with reviewing(page, pairs, out) as server:
            order = [entry.case.name for entry in server.desk.entries]
            page.wait_for_slice(order[0])
            page.key("t")
            page.saved()
            page.key("Enter")
            page.wait_for_slice(order[1])
            page.key("Enter")
            page.wait_for_slice(order[2])
            page.key("n")
            for letter in "two of them":
                page.key(letter)
            page.key("Enter")
            page.key("d")
            page.tab.wait("document.getElementById('done').textContent.startsWith('3 of 3')")
        log = lungunet.read_review(out / "review.jsonl")
        assert [log.cases[name].decision for name in order] == ["mended", "right", "drop"]
        assert log.dropped == (order[2],)
        assert log.cases[order[2]].note == "two of them"

    def test_a_decision_is_not_overtaken_by_the_note_before_it(
        self,
        page: Page,
        pairs: list[lungunet.Pair],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        out = tmp_path / "out"
        with reviewing(page, pairs, out) as server:
            decide, first = server.desk.decide, server.desk.entries[0].case.name

            def dawdle(index: int, decision: str | None, **rest: Any) -> None:
                time.sleep(0.0 if decision else 0.5)
                decide(index, decision, **rest)

            monkeypatch.setattr(server.desk, "decide", dawdle)
            page.wait_for_slice(first)
            page.key("n")
            page.key("x")
            page.key("Enter")
            page.key("d")
            page.tab.wait("document.getElementById('done').textContent.startsWith('1 of 3')")
            time.sleep(0.6)
        case = lungunet.read_review(out / "review.jsonl").cases[first]
        assert (case.decision, case.note) == ("drop", "x")

    def test_a_decision_is_taken_back_by_saying_it_again(
        self, page: Page, void: list[lungunet.Pair], tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        with reviewing(page, void, out):
            page.key("d")
            page.tab.wait("document.getElementById('done').textContent.startsWith('1 of 1')")
            page.key("d")
            page.tab.wait("document.getElementById('done').textContent.startsWith('0 of 1')")
        assert lungunet.read_review(out).dropped == ()


class TestWindows:
    def test_the_second_is_told_and_shows_what_the_first_changed(
        self, page: Page, new_tab: Callable[[], Tab], void: list[lungunet.Pair], tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        other = Page(new_tab())
        with reviewing(page, void, out) as server:
            other.open(server.address)
            other.tab.wait("document.getElementById('banner').textContent.includes('another')")
            page.tab.front()
            page.size(5)
            page.draw((40, 31))
            page.saved()
            other.tab.front()
            other.tab.wait("document.querySelector('.row em').textContent.includes('changed')")
            other.wait_for_lung(40, 31)
            other.size(5)
            other.draw((60, 31))
            other.saved()
            wanted = disk(40, 31, 5) | disk(60, 31, 5)
            assert np.array_equal(on_disk(out / "void.png") > 0, wanted)
            other.tab.call("Page.navigate", url="about:blank")
        assert other.tab.said == []

    def test_a_change_on_an_old_mask_is_refused_and_the_new_one_shown(
        self, page: Page, void: list[lungunet.Pair], tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        elsewhere = np.zeros(SHAPE, np.uint8)
        elsewhere[5:9, 5:9] = 255
        with reviewing(page, void, out):
            lungunet.write_mask(out / "void.png", elsewhere)  # another program
            page.size(5)
            page.draw((40, 31))
            page.tab.wait("document.getElementById('banner').textContent.includes('changed')")
            assert np.array_equal(on_disk(out / "void.png"), elsewhere)
            page.wait_for_lung(6, 6)
            page.draw((40, 31))
            page.saved()
        assert np.array_equal(on_disk(out / "void.png") > 0, disk(40, 31, 5) | (elsewhere > 0))
        assert any("409" in line for line in page.tab.said)
        page.tab.said.clear()


def test_a_wrong_token_shows_why_and_nothing_else(
    page: Page, void: list[lungunet.Pair], tmp_path: Path
) -> None:
    with opened_review(void, tmp_path / "out", config=QUICK) as server:
        page.tab.open(server.address[:-4] + "nope")
        page.tab.wait("document.getElementById('banner').textContent.includes('token')")
        assert not page.tab.js("document.querySelectorAll('.row').length")
    assert all("403" in line for line in page.tab.said)
    page.tab.said.clear()


@pytest.mark.parametrize("size", [(1280, 720), (1024, 768), (820, 1180)])
def test_one_screen_holds_all_of_it(
    page: Page, pairs: list[lungunet.Pair], tmp_path: Path, size: tuple[int, int]
) -> None:
    with opened_review(pairs, tmp_path / "out", config=QUICK) as server:
        page.open(server.address, (size[0], 1400))
        page.tab.open(server.address, size)  # as when a tablet is turned
        page.frame()
        for number, decision in enumerate(("d", "u", "d"), start=1):
            page.key(decision)
            page.tab.wait(
                f"document.getElementById('done').textContent.startsWith('{number} of 3')"
            )
            page.wait_for_slice()
        page.frame()
        over = page.tab.js(
            """[...document.querySelectorAll('.row *')].filter(e => {
                const [b, row] = [e, e.closest('.row')].map(x => x.getBoundingClientRect());
                return b.height && (b.bottom > row.bottom || b.right > row.right);
            }).map(e => e.outerHTML)"""
        )
        assert over == []
        cut = page.tab.js(
            """[...document.querySelectorAll('header *, aside *, footer *')].filter(e => {
                const b = e.getBoundingClientRect();
                const text = e.matches('button, label') && e.scrollWidth > e.clientWidth + 1;
                return b.width && (b.right > innerWidth || b.bottom > innerHeight || text);
            }).map(e => e.outerHTML)"""
        )
        assert cut == []
        page.key("?")
        assert page.tab.js("document.getElementById('help').scrollHeight <= innerHeight")


def test_it_says_which_masks_are_mended(
    page: Page, pairs: list[lungunet.Pair], tmp_path: Path
) -> None:
    for out, said in (
        (tmp_path / "out", f"Copies are mended, in {tmp_path / 'out'}."),
        (None, "The"),
    ):
        with opened_review(pairs, out, config=QUICK) as server:
            page.open(server.address)
            assert page.text("#where").startswith(said)
            page.tab.call("Page.navigate", url="about:blank")


def test_two_thousand_masks_are_listed_at_once(page: Page, tmp_path: Path) -> None:
    first = write_case(tmp_path, "s-0000", lungs().astype(np.uint8) * 255)
    pairs = [first]
    for number in range(1, 2000):
        name = f"s-{number:04d}"
        pairs.append(
            lungunet.Pair(first.image.with_stem(name), first.require_mask().with_stem(name))
        )
        pairs[-1].image.hardlink_to(first.image)
        pairs[-1].require_mask().hardlink_to(first.require_mask())
    out = tmp_path / "out"
    (out / ".review").mkdir(parents=True)
    ranks = {pair.name: [0.0, []] for pair in pairs}
    (out / ".review" / "doubt.json").write_text(json.dumps(ranks))
    with reviewing(page, pairs, out):
        page.wait_for_slice("s-0000")
        assert page.tab.js("document.querySelectorAll('.row').length") < 40
        page.tab.js("document.getElementById('list').scrollTop = 1e9")
        page.tab.wait("[...document.querySelectorAll('.row b')].at(-1).textContent == 's-1999'")
        page.tab.click(".row[data-index='1999']")
        page.wait_for_slice("s-1999")
        page.key("ArrowUp")
        page.wait_for_slice("s-1998")


def test_the_page_says_when_the_program_has_ended(
    page: Page, void: list[lungunet.Pair], tmp_path: Path
) -> None:
    with opened_review(void, tmp_path / "out", config=QUICK) as server:
        page.open(server.address)
    page.tab.wait("document.getElementById('banner').textContent.includes('has ended')")
    page.tab.said.clear()


def test_finish_ends_the_program(page: Page, void: list[lungunet.Pair], tmp_path: Path) -> None:
    with reviewing(page, void, tmp_path / "out") as server:
        page.tab.click("#finish")
        assert server.finished.wait(20)
        page.tab.wait("document.body.textContent.includes('Finished')")


@pytest.mark.parametrize(("key", "decision"), [("u", "unsure"), ("d", "drop")])
def test_what_cannot_be_shown_is_told_and_is_never_right(
    page: Page, pairs: list[lungunet.Pair], tmp_path: Path, key: str, decision: str
) -> None:
    lungunet.write_mask(pairs[0].require_mask(), np.full(SHAPE, 7, np.uint8))
    out = tmp_path / "out"
    with opened_review(pairs, out, config=QUICK) as server:
        page.tab.call("Page.navigate", url=server.address)
        page.tab.wait("document.getElementById('trouble')?.hidden === false")
        assert server.desk.entries[0].case.name == "lost"
        assert "mask value 7" in page.text("#trouble")
        locked = "[...document.querySelectorAll('[data-decide]')].filter((b) => b.disabled)"
        names = f"{locked}.map((b) => b.dataset.decide).join()"
        assert page.tab.js(names) == "right,mended"
        page.key("Enter")
        with pytest.raises(lungunet.LabelError, match="mask value 7"):
            server.desk.decide(0, "right", note="", who="")
        assert len(log_of(out)) == 1
        page.key(key)
        page.tab.wait("document.getElementById('trouble').hidden")
        assert page.tab.js(names) == ""
        page.tab.call("Page.navigate", url="about:blank")
    assert [row["decision"] for row in log_of(out)[1:]] == [decision]
    assert all("status of 422" in said for said in page.tab.said)
    page.tab.said.clear()
