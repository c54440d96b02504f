// The page: what is shown, and what hands do. Masks are changed in mask.js, kept by saving.js.

import * as api from "./api.js";
import { List } from "./list.js";
import { Mask, apply, difference } from "./mask.js";
import { Saver } from "./saving.js";
import { View, colourOf } from "./view.js";

const $ = (id) => document.getElementById(id);
const all = (selector) => [...document.querySelectorAll(selector)];
const PULSE_MS = 2000;
const WHEEL_PX = 40;
const [SMALLEST, LARGEST] = [1, 80];

const HELP = [
  ["&darr; &uarr;", "next mask, the one before"], ["Wheel", "scan: slice; slice: zoom"], ["Ctrl + wheel", "zoom; also + and -"],
  ["&larr; &rarr;", "scan: slice below, above"], ["Right drag", "window: across width, down level; W for the left button"], ["Space + drag", "move; also the middle button"],
  ["Two fingers", "move and zoom; with a pen in use one finger moves"], ["0", "fit to the screen"], ["L / K", "lung window / soft tissue"],
  ["B / E", "brush / eraser"], ["[ ]", "size of both"], ["F", "fill what is enclosed, or give a piece the class"],
  ["G", "lung here: grow from a click"], ["X", "remove the piece that is clicked"], ["H", "close small holes; larger ones with F"],
  ["M / T", "take the mask of the model / of the threshold"], ["S", "swap sides (masks with left and right)"], ["R", "back to the first version"],
  ["Z / Y", "undo / redo; also with Ctrl"], ["1 to 9", "class, where there are several"],
  ["V / O", "mask on and off / outline or fill"], ["&#8679;M &#8679;T &#8679;R", "outline of model, threshold, first version"],
  ["Enter", "right, or mended where it was changed; next"], ["D / U", "drop / unsure; next"], ["N", "note"], ["?", "this page"],
];

const state = {
  cases: [], classes: [], at: -1, z: null, axis: "axial", slice: null, mask: null,
  tool: "brush", held: null, size: 13, value: 1, histories: new Map(), ahead: new Map(),
  begun: Date.now(), decided: 0, changes: null, window: Math.random().toString(36).slice(2), loading: 0, wheel: 0, lost: false, bounds: null,
};

const view = new View($("view"));
const list = new List($("list"), $("rows"), (index) => open(index));
const saver = new Saver({
  tell: (word) => saved(word === "saved" ? "saved" : "saving …", word === "saved" ? "ok" : ""),
  stale: () => { say("This mask was changed in another window or program. It is shown as it is now; your last change is not in it."); reload({ forget: true }); },
  stuck: (error) => {
    saved("not saved", "bad");
    say(error instanceof api.Refused ? `Not saved: ${error.message} Trying again.` : "Not saved: the program has ended. What was shown as saved is kept; the last change is in this window alone.", "bad");
  },
});

// Words -------------------------------------------------------------------------------------------

function say(text, kind = "") {
  $("banner").textContent = text;
  $("banner").className = kind;
  $("banner").hidden = !text;
}

function saved(text, kind) {
  $("saved").textContent = text;
  $("saved").className = kind;
  if (kind === "ok" && $("banner").classList.contains("bad")) say("");
}

function hint(text) { if (text) { saved(text, "bad"); setTimeout(() => { if ($("saved").textContent === text) saved("", ""); }, 4000); } }

function showProgress() {
  const done = state.cases.filter((item) => item.decision).length;
  const each = state.decided ? Math.round((Date.now() - state.begun) / 1000 / state.decided) : 0;
  $("done").textContent = `${done} of ${state.cases.length} done${each ? ` · ${each} s each` : ""}`;
  $("meter").value = state.cases.length ? done / state.cases.length : 0;
}

function showCase() {
  const item = state.cases[state.at];
  if (!item) return;
  $("name").textContent = item.name;
  $("name").title = item.name;
  $("reasons").textContent = item.reasons.join("; ");
  $("reasons").title = item.reasons.join("\n");
  $("note").value = item.note;
  for (const button of all("[data-decide]")) button.setAttribute("aria-pressed", String(button.dataset.decide === item.decision));
  showProgress();
}

// Lists and slices ----------------------------------------------------------------------------------

const WANTED = {
  all: () => true, open: (item) => !item.decision, changed: (item) => item.changed,
};
const wanted = (item) => (WANTED[$("filter").value] || ((each) => each.decision === $("filter").value))(item);

async function loadList() {
  const found = await api.getList();
  state.cases = found.cases;
  state.classes = found.classes;
  state.changes = found.changes;
  if (!$("who").value) $("who").value = found.who;
  const where = found.copies ? `Copies are mended, in ${found.copies}.` : "The masks themselves are mended.";
  $("where").textContent = $("saved").title = where;
  list.setCases(state.cases, wanted);
  showProgress();
}

const key = (i, z, axis) => `${i}/${z}/${axis}`;

function fetchSlice(i, z, axis) {
  const name = key(i, z, axis);
  if (!state.ahead.has(name)) {
    const coming = api.getSlice(i, z, axis);
    coming.catch(() => state.ahead.delete(name));
    state.ahead.set(name, coming);
    while (state.ahead.size > 12) state.ahead.delete(state.ahead.keys().next().value);
  }
  return state.ahead.get(name);
}

async function open(index, { z = null, axis = "axial", keep = false } = {}) {
  if (index < 0 || index >= state.cases.length) return;
  finishStroke();
  const turn = ++state.loading;
  const other = index !== state.at;
  if (other) keepNote();
  if (other) state.places = {};
  state.at = index;
  state.axis = axis;
  $("plane").value = axis;
  if (other) { list.select(index); showCase(); }
  if (saver.busy) await saver.idle();
  if (turn !== state.loading) return;
  let slice;
  try {
    slice = await fetchSlice(index, z === null ? "" : z, axis);
  } catch (error) {
    if (turn === state.loading) nothing(error);
    return;
  }
  if (turn !== state.loading) return;
  state.ahead.delete(key(index, z === null ? "" : z, axis));
  showSlice(slice, { keep: keep && !other });
  lookAhead(index, slice);
}

function nothing(error) {
  state.slice = state.mask = null;
  view.clear();
  $("trouble").textContent = error instanceof api.Refused ? error.message : "The program has ended.";
  $("trouble").hidden = false;
  lock();
}

function showSlice(slice, { keep }) {
  $("trouble").hidden = true;
  const z = slice.z ?? 0;
  state.z = z;
  state.places = { ...state.places, [state.axis]: z };
  state.slice = slice;
  state.mask = new Mask(slice.width, slice.height, slice.mask);
  state.outside = null;
  if (state.axis === "axial") {
    const name = saver.key(state.at, z);
    if (saver.versions.get(name) !== slice.version) state.histories.delete(name);
    saver.setVersion(state.at, z, slice.version);
  }
  if (!state.bounds || state.unit !== slice.unit) {
    state.bounds = slice.bounds;
    state.unit = slice.unit;
    [$("low").value, $("high").value] = slice.bounds.map(Math.round);
    setLook(0, { quietly: true });
  }
  $("planes").hidden = slice.depth === undefined;
  if (slice.depth !== undefined) {
    $("z").max = slice.depth - 1;
    $("z").value = z;
    $("z-of").textContent = `${z} / ${slice.depth - 1}`; // from 0, as reasons and names of slices count
  }
  view.show(slice, state.mask, { keep });
  showWindow();
  showLayers();
  tellValue();
  lock();
  list.readScans();
}

function lookAhead(index, slice) {
  if (slice.depth === undefined) {
    const next = list.beside(1);
    if (next >= 0 && !state.cases[next].scan) fetchSlice(next, "", "axial").catch(() => {});
    return;
  }
  for (const step of [1, -1, 2, -2]) {
    const z = slice.z + step;
    if (z >= 0 && z < slice.depth) fetchSlice(index, z, state.axis).catch(() => {});
  }
}

function reload({ forget } = {}) {
  if (forget) state.histories.delete(saver.key(state.at, state.z));
  state.ahead.clear();
  return open(state.at, { z: state.slice?.depth === undefined ? null : state.z, axis: state.axis, keep: true });
}

// Steps through a scan; fast wheels skip what is not there yet.
function step(by) {
  const { slice } = state;
  if (!slice || slice.depth === undefined) return;
  const z = Math.max(0, Math.min(slice.depth - 1, (state.going ?? state.z) + by));
  if (z === (state.going ?? state.z)) return;
  state.going = z;
  open(state.at, { z, axis: state.axis, keep: true }).finally(() => { if (state.z === z) state.going = null; });
}

// Tools ---------------------------------------------------------------------------------------------

const history = () => {
  const name = saver.key(state.at, state.z);
  if (!state.histories.has(name)) state.histories.set(name, { undo: [], redo: [] });
  return state.histories.get(name);
};

const canDraw = () => state.mask && state.axis === "axial";

// Of a mask that could not be shown nobody knows that it is right.
const canDecide = (decision) => state.slice || decision === "unsure" || decision === "drop";

function lock() {
  const past = canDraw() ? history() : { undo: [], redo: [] };
  for (const button of all("[data-tool], [data-act]")) button.disabled = !canDraw();
  for (const button of all("[data-decide]")) button.disabled = !canDecide(button.dataset.decide);
  for (const tool of ["pan", "window"]) document.querySelector(`[data-tool="${tool}"]`).disabled = false;
  document.querySelector('[data-act="undo"]').disabled = !past.undo.length;
  document.querySelector('[data-act="redo"]').disabled = !past.redo.length;
}

// Does something to the mask, keeps how to undo it, and saves.
function act(did, change) {
  if (!canDraw()) return;
  finishStroke();
  const before = state.mask.classes.slice();
  const why = change();
  if (why) { hint(why); return; }
  keepChange(did, before);
}

function keepChange(did, before) {
  const found = difference(before, state.mask.classes, state.mask.width);
  if (!found) return;
  view.repaint();
  tellValue();
  const past = history();
  past.undo.push({ did, ...found });
  past.redo.length = 0;
  store(did);
}

function store(did) {
  const { at, z, mask, slice } = state;
  state.ahead.delete(key(at, z, "axial"));
  saver.add(at, z, { mask: mask.classes, width: slice.width, height: slice.height, did, who: $("who").value });
  if (!state.cases[at].changed) { state.cases[at].changed = true; }
  lock();
  list.refresh(at);
}

function again(from, to, side) {
  if (!canDraw() || stroke) return;
  const past = history();
  const change = past[from].pop();
  if (!change) return;
  past[to].push(change);
  apply(change, change[side], state.mask.classes, state.mask.width);
  view.repaint();
  tellValue();
  store(from);
}

async function opinion(by) {
  const { at, z, slice } = state;
  slice.opinions ||= {};
  slice.opinions[by] ||= api.getOpinion(at, z, by);
  // The first question takes seconds, for the model is read.
  const slow = setTimeout(() => { if (!saver.busy) saved(`asking the ${by === "model" ? "model" : "threshold"} …`, ""); }, 300);
  try {
    const found = await slice.opinions[by];
    return state.slice === slice ? found : null;
  } catch (error) {
    delete slice.opinions[by];
    hint(error.message);
    return null;
  } finally {
    clearTimeout(slow);
    if ($("saved").textContent.startsWith("asking")) saved("", "");
  }
}

async function take(by, did) {
  if (!canDraw() || stroke) return;
  const found = await opinion(by);
  if (!found || !canDraw() || stroke) return;
  act(did, () => state.mask.take(found.mask, found.classes, state.classes.length, state.value));
}

async function grow(x, y) {
  const found = await opinion("outside");
  if (!found || !canDraw() || stroke) return;
  const [low, high] = [Number($("low").value), Number($("high").value)];
  act("lung here", () => state.mask.grow(x, y, state.value, { values: state.slice.values, low, high, outside: found.mask }));
}

const ACTS = {
  model: () => take("model", "take model"),
  rule: () => take("rule", "take threshold"),
  first: () => take("first", "first version"),
  holes: () => act("close holes", () => state.mask.closeHoles()),
  swap: () => act("swap sides", () => state.mask.swap(1, 2)),
  undo: () => again("undo", "redo", "before"),
  redo: () => again("redo", "undo", "after"),
};

function setTool(tool) {
  finishStroke();
  state.tool = tool;
  for (const button of all("[data-tool]")) button.setAttribute("aria-checked", String(button.dataset.tool === tool));
  $("view").style.cursor = { pan: "grab", window: "ns-resize" }[tool] || "crosshair";
  view.setBrush(tool === "brush" || tool === "erase" ? state.size : 0);
}

function setSize(size) {
  state.size = Math.max(SMALLEST, Math.min(LARGEST, size));
  $("size").value = state.size;
  $("size-of").textContent = `${state.size} px`;
  if (view.brush) view.setBrush(state.size);
}

function setClass(value) {
  if (value >= state.classes.length) return;
  state.value = value;
  for (const button of all("#palette button")) button.setAttribute("aria-checked", String(Number(button.dataset.value) === value));
}

function makePalette() {
  $("palette").hidden = state.classes.length < 3;
  document.querySelector('[data-act="swap"]').hidden = state.classes.length < 3;
  $("palette").replaceChildren(...state.classes.slice(1).map((name, place) => {
    const button = document.createElement("button");
    const spot = document.createElement("i");
    spot.style.background = colourOf(place + 1);
    button.type = "button";
    button.dataset.value = place + 1;
    button.setAttribute("role", "radio");
    button.title = `${name} (${place + 1})`;
    button.append(spot, name);
    button.addEventListener("click", () => setClass(place + 1));
    return button;
  }));
  setClass(1);
}

// Looks ---------------------------------------------------------------------------------------------

function setLook(place, { quietly } = {}) {
  const windows = Object.values(state.slice?.windows || {});
  const found = windows[Math.min(place, windows.length - 1)];
  if (!found) return;
  view.look = { level: found[0], width: found[1] };
  if (!quietly) view.window();
  showWindow();
}

function showWindow() { $("window").textContent = `level ${Math.round(view.look.level)}  width ${Math.round(view.look.width)}`; }

async function showLayers() {
  view.showMask = $("show-mask").checked;
  view.filled = $("filled").checked;
  view.opacity = Number($("opacity").value) / 100;
  if (state.slice) view.repaint();
  for (const name of ["model", "rule", "first"]) {
    if (!$(`show-${name}`).checked || !canDraw()) { if (state.slice) view.setLayer(name, null); continue; }
    const found = await opinion(name);
    if (found && $(`show-${name}`).checked) view.setLayer(name, found.mask);
  }
}

function toggle(id) { $(id).checked = !$(id).checked; showLayers(); }

// Decisions -----------------------------------------------------------------------------------------

async function decide(decision) {
  finishStroke();
  const { at } = state;
  const item = state.cases[at];
  if (!item || !canDecide(decision)) return;
  const back = item.decision === decision && item.note === $("note").value;
  const next = back ? null : decision;
  const first = !item.decision;
  try {
    await api.decide(at, () => next, $("note").value, $("who").value);
  } catch (error) {
    say(error instanceof api.Refused ? `Not saved: ${error.message}` : "Not saved: the program has ended.", "bad");
    return;
  }
  item.decision = next;
  item.note = $("note").value;
  item.who = $("who").value;
  if (next && first) state.decided++;
  list.refresh(at, { thumb: true });
  if (state.at !== at) return;
  showCase();
  if (next) open(list.beside(1));
}

// A note that was written without a decision is kept too.
function keepNote() {
  const item = state.cases[state.at];
  if (!item || item.note === $("note").value) return;
  item.note = $("note").value;
  api.decide(state.at, () => item.decision, item.note, $("who").value).catch(() => { say("The note was not saved.", "bad"); });
}

// Hands ---------------------------------------------------------------------------------------------

let stroke = null; // being drawn: by which pointer, what it began on, and where it is
let drag = null; // of the window or the picture
let tap = null; // of a finger: what it does waits until it is lifted, for a second one may come
const fingers = new Map();
const TAP_PX = 12;

function finishStroke() {
  if (!stroke) return;
  const { did, before } = stroke;
  stroke = null;
  keepChange(did, before);
}

function cancelStroke() {
  if (!stroke) return;
  state.mask.classes.set(stroke.before);
  stroke = null;
  view.repaint();
}

// Fingers draw until a pen is seen; from then on they move the picture, and a hand may rest on it.
function press(event) {
  if (!state.slice) return;
  $("view").focus({ preventScroll: true });
  $("view").setPointerCapture(event.pointerId);
  const touches = event.pointerType === "touch";
  if (event.pointerType === "pen") {
    state.pen = true;
    if (stroke?.touches) cancelStroke();
    if (fingers.size) { fingers.clear(); drag = tap = null; }
  }
  if (touches) {
    if (stroke && !stroke.touches) return;
    fingers.set(event.pointerId, event);
    if (fingers.size > 1) { cancelStroke(); drag = tap = null; return; }
  }
  if (stroke || drag) return;
  const id = event.pointerId;
  const moves = event.button === 1 || (event.button === 0 && (state.tool === "pan" || state.held === "pan" || (touches && state.pen)));
  if (event.button === 2 || (event.button === 0 && state.tool === "window" && !moves)) drag = { id, window: true, x: event.clientX, y: event.clientY };
  else if (moves) drag = { id, window: false, x: event.clientX, y: event.clientY };
  else if (event.button === 0 || event.button === 5) begin(event, touches);
}

function begin(event, touches) {
  if (!canDraw()) { hint("coronal and sagittal planes are to look at"); return; }
  const at = view.toSlice(event);
  const erases = state.tool === "erase" || event.button === 5; // the other end of a pen
  if (state.tool === "brush" || erases) {
    const did = erases ? "erase" : "brush";
    stroke = { id: event.pointerId, touches, did, before: state.mask.classes.slice(), value: erases ? 0 : state.value, at };
    view.repaint(state.mask.stamp(at.x, at.y, state.size, stroke.value));
  } else if (touches) tap = { id: event.pointerId, x: event.clientX, y: event.clientY, at };
  else use(at);
}

function use(at) {
  const [x, y] = [Math.floor(at.x), Math.floor(at.y)];
  if (!canDraw() || x < 0 || y < 0 || x >= state.mask.width || y >= state.mask.height) return;
  if (state.tool === "fill") act("fill", () => state.mask.fill(x, y, state.value));
  if (state.tool === "remove") act("remove piece", () => state.mask.remove(x, y));
  if (state.tool === "grow") grow(x, y);
}

function moved(event) {
  if (!state.slice) return;
  const touches = event.pointerType === "touch";
  if (touches) {
    if (!fingers.has(event.pointerId)) return;
    if (fingers.size > 1) { pinch(event); return; }
    fingers.set(event.pointerId, event);
    if (tap && Math.hypot(event.clientX - tap.x, event.clientY - tap.y) > TAP_PX) tap = null;
  }
  if (stroke?.id === event.pointerId) {
    for (const each of event.getCoalescedEvents?.() || [event]) {
      const to = view.toSlice(each);
      view.repaint(state.mask.stroke(stroke.at, to, state.size, stroke.value));
      stroke.at = to;
    }
  } else if (drag?.id === event.pointerId && drag.window) {
    const [dx, dy] = [event.clientX - drag.x, event.clientY - drag.y];
    Object.assign(drag, { x: event.clientX, y: event.clientY });
    view.look.width = Math.max(1, view.look.width * Math.exp(dx / 250));
    view.look.level += (dy * view.look.width) / 500;
    view.window();
    showWindow();
  } else if (drag?.id === event.pointerId) {
    const dense = view.canvas.width / view.canvas.clientWidth;
    view.move((event.clientX - drag.x) * dense, (event.clientY - drag.y) * dense);
    Object.assign(drag, { x: event.clientX, y: event.clientY });
  }
  view.point(touches ? null : event);
  showValue(view.toSlice(event));
}

// What is under the pointer may have changed without it.
function tellValue() {
  if (view.pointer && state.slice) showValue(view.toSlice(view.pointer));
  else $("value").textContent = "";
}

function showValue(at) {
  const { slice, mask } = state;
  const [x, y] = [Math.floor(at.x), Math.floor(at.y)];
  const within = x >= 0 && y >= 0 && x < slice.width && y < slice.height;
  const value = within ? slice.values[y * slice.width + x] : 0;
  const shown = Number.isInteger(value) ? value : value.toFixed(2);
  const name = within ? state.classes[mask.classes[y * slice.width + x]] : "";
  $("value").textContent = within ? `${x}, ${y}   ${shown} ${slice.unit}   ${name}` : "";
}

function pinch(event) {
  const other = [...fingers].find(([id]) => id !== event.pointerId)[1];
  const last = fingers.get(event.pointerId);
  const dense = view.canvas.width / view.canvas.clientWidth;
  const apart = (a, b) => Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
  const middle = view.toSlice({ clientX: (event.clientX + other.clientX) / 2, clientY: (event.clientY + other.clientY) / 2 });
  view.move(((event.clientX - last.clientX) / 2) * dense, ((event.clientY - last.clientY) / 2) * dense);
  view.zoom(apart(event, other) / Math.max(1, apart(last, other)), middle.screenX, middle.screenY);
  fingers.set(event.pointerId, event);
}

function release(event) {
  fingers.delete(event.pointerId);
  if (drag?.id === event.pointerId) drag = null;
  if (stroke?.id === event.pointerId) finishStroke();
  if (tap?.id === event.pointerId) {
    const { at } = tap;
    tap = null;
    use(at);
  }
}

// The system took the pointer away: a palm, or its own gesture.
function cancel(event) {
  if (tap?.id === event.pointerId) tap = null;
  if (stroke?.id === event.pointerId && stroke.touches) cancelStroke();
  release(event);
}

function wheel(event) {
  event.preventDefault();
  if (!state.slice) return;
  const at = view.toSlice(event);
  const pixels = event.deltaMode === 1 ? event.deltaY * WHEEL_PX : event.deltaY;
  if (event.ctrlKey || state.slice.depth === undefined) { view.zoom(Math.exp(-pixels / 400), at.screenX, at.screenY); return; }
  state.wheel += pixels;
  const steps = Math.trunc(state.wheel / WHEEL_PX);
  state.wheel -= steps * WHEEL_PX;
  if (steps) step(Math.sign(steps) * Math.min(3, Math.abs(steps)));
}

function zoomBy(factor) { if (state.slice) view.zoom(factor, view.canvas.width / 2, view.canvas.height / 2); }

const KEYS = {
  b: () => setTool("brush"), e: () => setTool("erase"), f: () => setTool("fill"), x: () => setTool("remove"), w: () => setTool("window"), g: () => setTool("grow"),
  "[": () => setSize(state.size - (state.size > 20 ? 4 : 2)), "]": () => setSize(state.size + (state.size >= 20 ? 4 : 2)),
  m: ACTS.model, t: ACTS.rule, r: ACTS.first, h: ACTS.holes, s: () => { if (state.classes.length > 2) ACTS.swap(); }, z: ACTS.undo, y: ACTS.redo,
  v: () => toggle("show-mask"), o: () => toggle("filled"), M: () => toggle("show-model"), T: () => toggle("show-rule"), R: () => toggle("show-first"),
  l: () => setLook(0), k: () => setLook(1), 0: () => state.slice && view.fit(), "+": () => zoomBy(1.25), "=": () => zoomBy(1.25), "-": () => zoomBy(0.8),
  ArrowDown: () => open(list.beside(1)), ArrowUp: () => open(list.beside(-1)), PageDown: () => open(list.beside(1)), PageUp: () => open(list.beside(-1)),
  ArrowRight: () => step(1), ArrowLeft: () => step(-1),
  Enter: () => decide(state.cases[state.at]?.changed ? "mended" : "right"), d: () => decide("drop"), u: () => decide("unsure"),
  n: () => $("note").focus(), "?": () => $("help").showModal(),
};

function keyDown(event) {
  if ($("help").open || state.finished) return;
  const typing = event.target.matches("input:not([type=range], [type=checkbox]), select");
  if (typing) {
    if (event.key === "Escape" || (event.key === "Enter" && event.target.id !== "filter")) { event.target.blur(); event.preventDefault(); }
    return;
  }
  if (event.altKey || event.metaKey && !["z", "y"].includes(event.key.toLowerCase())) return;
  if (event.ctrlKey || event.metaKey) {
    const name = event.key.toLowerCase();
    if (name === "z" || name === "y") { event.preventDefault(); (name === "y" || event.shiftKey ? ACTS.redo : ACTS.undo)(); }
    return;
  }
  if (event.key === " ") {
    if (event.target.matches("button, input")) return;
    state.held = "pan";
    event.preventDefault();
    return;
  }
  // A focused button is pressed by Enter, a slider moved by arrows.
  if (event.key === "Enter" && event.target.matches("button")) return;
  if (event.key.startsWith("Arrow") && event.target.matches("input[type=range]")) return;
  if (/^[1-9]$/.test(event.key)) { setClass(Number(event.key)); return; }
  const does = KEYS[event.key];
  if (!does || (event.repeat && ["Enter", "d", "u", "m", "t", "r", "h", "s"].includes(event.key))) return;
  event.preventDefault();
  does();
}

// Other windows, and whether the program still runs.
async function pulse() {
  if (state.finished) return;
  try {
    const { windows, changes } = await api.getPulse(state.window);
    if (state.lost) { state.lost = false; say(""); }
    const news = state.changes !== null && changes !== state.changes;
    state.changes = changes;
    if (windows > 1) {
      if (!state.several) say("This review is open in another window too. What is changed there shows here within seconds.");
      if (news && !saver.busy && !stroke) { await refresh(); }
    } else if (state.several) say("");
    state.several = windows > 1;
  } catch (error) {
    if (error instanceof api.Refused) say(error.message, "bad");
    else if (!state.lost) { state.lost = true; say("The program has ended. All that was shown as saved is kept; start it again to go on.", "bad"); }
  }
  setTimeout(pulse, PULSE_MS);
}

async function refresh() {
  const found = await api.getList();
  state.cases = found.cases;
  list.setCases(state.cases, wanted);
  state.ahead.clear();
  showProgress();
  const { at, z, axis, slice } = state;
  if (!slice || axis !== "axial") return;
  const fresh = await api.getSlice(at, slice.depth === undefined ? "" : z, axis);
  if (state.slice === slice && !saver.busy && !stroke && fresh.version !== saver.versions.get(saver.key(at, z))) {
    state.histories.delete(saver.key(at, z));
    showSlice(fresh, { keep: true });
  }
}

function listen() {
  const canvas = $("view");
  canvas.addEventListener("pointerdown", press);
  canvas.addEventListener("pointermove", moved);
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", cancel);
  canvas.addEventListener("pointerleave", () => { view.point(null); tellValue(); });
  canvas.addEventListener("wheel", wheel, { passive: false });
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("mousedown", (event) => { if (event.button === 1) event.preventDefault(); });
  addEventListener("keydown", keyDown);
  addEventListener("keyup", (event) => { if (event.key === " ") state.held = null; });
  addEventListener("blur", () => { state.held = null; });
  addEventListener("beforeunload", (event) => { keepNote(); if (saver.busy || stroke) event.preventDefault(); });
  for (const button of all("[data-tool]")) button.addEventListener("click", () => setTool(button.dataset.tool));
  for (const button of all("[data-act]")) button.addEventListener("click", () => ACTS[button.dataset.act]());
  for (const button of all("[data-decide]")) button.addEventListener("click", () => decide(button.dataset.decide));
  for (const button of all("[data-look]")) {
    button.addEventListener("click", () => (button.dataset.look === "fit" ? state.slice && view.fit() : setLook(Number(button.dataset.look))));
  }
  $("size").addEventListener("input", () => setSize(Number($("size").value)));
  for (const id of ["show-mask", "filled", "show-model", "show-rule", "show-first"]) $(id).addEventListener("change", showLayers);
  $("opacity").addEventListener("input", showLayers);
  $("filter").addEventListener("change", () => { list.setCases(state.cases, wanted); $("filter").blur(); });
  $("z").addEventListener("input", () => step(Number($("z").value) - (state.going ?? state.z)));
  $("plane").addEventListener("change", () => { $("plane").blur(); open(state.at, { axis: $("plane").value, z: state.places?.[$("plane").value] ?? null }); });
  $("note").addEventListener("change", keepNote);
  $("help-button").addEventListener("click", () => $("help").showModal());
  $("finish").addEventListener("click", async () => {
    finishStroke();
    keepNote();
    await saver.idle();
    await api.finish();
    state.finished = true;
    state.slice = state.mask = null;
    view.clear();
    for (const part of all("header, main")) part.inert = true;
    say("Finished. This window can be closed.");
  });
}

async function start() {
  $("keys").innerHTML = "";
  for (const [keys, words] of HELP) {
    const line = document.createElement("p");
    const name = document.createElement("kbd");
    name.innerHTML = keys;
    line.append(name, words);
    $("keys").append(line);
  }
  listen();
  setTool("brush");
  setSize(state.size);
  try {
    await loadList();
  } catch (error) {
    say(error instanceof api.Refused ? error.message : "The program cannot be reached.", "bad");
    return;
  }
  makePalette();
  const first = state.cases.findIndex((item) => !item.decision);
  await open(Math.max(0, first));
  pulse();
}

start();
