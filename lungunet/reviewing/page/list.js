// The list of masks: only the rows that are seen exist, so 2,000 are as quick as twenty.

import { getThumb } from "./api.js";
import { colourOf } from "./view.js";

const ROW = 64;
const SIDE = 56;
const KEPT = 400;

export class List {
  constructor(box, rows, choose) {
    Object.assign(this, { box, rows, choose, cases: [], shown: [], chosen: -1, made: new Map(), thumbs: new Map(), reads: false, reading: false });
    box.addEventListener("scroll", () => this.draw(), { passive: true });
    new ResizeObserver(() => this.draw()).observe(box);
    rows.addEventListener("click", (event) => {
      const row = event.target.closest(".row");
      if (row) choose(Number(row.dataset.index));
    });
  }

  setCases(cases, wanted) {
    this.cases = cases;
    this.shown = cases.map((_, index) => index).filter((index) => index === this.chosen || wanted(cases[index]));
    this.rows.style.height = `${this.shown.length * ROW}px`;
    for (const row of this.made.values()) row.remove();
    this.made.clear();
    this.draw();
  }

  select(index) {
    this.chosen = index;
    const place = this.shown.indexOf(index);
    if (place >= 0) {
      const top = place * ROW;
      if (top < this.box.scrollTop) this.box.scrollTop = top;
      if (top + ROW > this.box.scrollTop + this.box.clientHeight) this.box.scrollTop = top + ROW - this.box.clientHeight;
    }
    this.draw();
  }

  // The next one in the list as it is shown.
  beside(step) {
    const place = this.shown.indexOf(this.chosen);
    return this.shown[place + step] ?? -1;
  }

  refresh(index, { thumb } = {}) {
    if (thumb) this.thumbs.delete(index);
    this.made.get(index)?.remove();
    this.made.delete(index);
    this.draw();
  }

  draw() {
    const first = Math.max(0, Math.floor(this.box.scrollTop / ROW) - 2);
    const last = Math.min(this.shown.length, Math.ceil((this.box.scrollTop + this.box.clientHeight) / ROW) + 2);
    const seen = new Set(this.shown.slice(first, last));
    for (const [index, row] of this.made) {
      if (!seen.has(index)) { row.remove(); this.made.delete(index); }
    }
    for (let place = first; place < last; place++) {
      const index = this.shown[place];
      const row = this.made.get(index) || this.make(index);
      row.style.top = `${place * ROW}px`;
      row.setAttribute("aria-selected", String(index === this.chosen));
    }
    if (this.reads) this.readScans();
  }

  // A scan is read whole for its picture: one after the other, of those that are seen, and not before the
  // slice that is looked at is there.
  async readScans() {
    this.reads = true;
    if (this.reading) return;
    this.reading = true;
    const next = () => [...this.made.keys()].find((each) => this.cases[each].scan && !this.thumbs.has(each));
    for (let index = next(); index !== undefined; index = next()) {
      this.keepThumb(index);
      await this.thumbs.get(index);
      this.drawThumb(index, this.made.get(index)?.querySelector("canvas"));
    }
    this.reading = false;
  }

  keepThumb(index) {
    this.thumbs.set(index, getThumb(index).catch(() => null));
    if (this.thumbs.size > KEPT) this.thumbs.delete(this.thumbs.keys().next().value);
  }

  make(index) {
    const item = this.cases[index];
    const row = document.createElement("div");
    row.className = "row";
    row.dataset.index = index;
    row.setAttribute("role", "option");
    const picture = document.createElement("canvas");
    picture.width = picture.height = SIDE;
    const words = document.createElement("div");
    const name = document.createElement("b");
    name.textContent = item.name;
    name.title = item.name;
    const state = document.createElement("em");
    state.textContent = [item.decision || (item.changed ? "changed" : ""), item.score === null ? "" : item.score.toFixed(2), item.group]
      .filter(Boolean).join(" · ");
    state.className = item.decision || item.group;
    const why = document.createElement("span");
    why.textContent = item.reasons[0] || "";
    words.append(name, state, why);
    row.append(picture, words);
    this.rows.append(row);
    this.made.set(index, row);
    if (!item.scan && !this.thumbs.has(index)) this.keepThumb(index);
    this.drawThumb(index, picture);
    return row;
  }

  async drawThumb(index, picture) {
    const thumb = await this.thumbs.get(index);
    if (!thumb || !picture) return;
    const pixels = new ImageData(SIDE, SIDE);
    for (let at = 0; at < SIDE * SIDE; at++) {
      const n = thumb.mask[at] ? parseInt(colourOf(thumb.mask[at]).slice(1), 16) : 0;
      const mix = (channel) => (thumb.mask[at] ? 0.6 * thumb.grey[at] + 0.4 * channel : thumb.grey[at]);
      pixels.data.set([mix(n >> 16), mix((n >> 8) & 255), mix(n & 255), 255], 4 * at);
    }
    picture.getContext("2d").putImageData(pixels, 0, 0);
  }
}
