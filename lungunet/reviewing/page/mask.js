// What tools do to a mask: arrays of classes, row by row. Knows no screen.

const HOLE = 0.0025; // of the picture: the largest hole that is closed by itself, 3 cm2 of a chest

// A box around two.
export const around = (a, b) => (a && b ? {
  left: Math.min(a.left, b.left), top: Math.min(a.top, b.top), right: Math.max(a.right, b.right), bottom: Math.max(a.bottom, b.bottom),
} : a || b);

export class Mask {
  constructor(width, height, classes) {
    this.width = width;
    this.height = height;
    this.classes = classes;
  }

  // A disk of so many pixels across. Odd sizes sit on a pixel, even ones between pixels. Returns a box around it.
  stamp(x, y, size, value) {
    const odd = size % 2 === 1;
    const cx = odd ? Math.floor(x) + 0.5 : Math.round(x);
    const cy = odd ? Math.floor(y) + 0.5 : Math.round(y);
    const r = size / 2;
    const [top, bottom] = [Math.max(0, Math.ceil(cy - r - 0.5)), Math.min(this.height - 1, Math.floor(cy + r - 0.5))];
    for (let row = top; row <= bottom; row++) {
      const half = Math.sqrt(Math.max(0, r * r - (row + 0.5 - cy) ** 2));
      const left = Math.max(0, Math.ceil(cx - half - 0.5));
      const right = Math.min(this.width - 1, Math.floor(cx + half - 0.5));
      if (left <= right) this.classes.fill(value, row * this.width + left, row * this.width + right + 1);
    }
    return { left: x - r - 1, top: y - r - 1, right: x + r + 1, bottom: y + r + 1 };
  }

  stroke(from, to, size, value) {
    const length = Math.hypot(to.x - from.x, to.y - from.y);
    const steps = Math.max(1, Math.ceil(length / Math.max(0.5, size / 8)));
    let box = null;
    for (let step = 1; step <= steps; step++) {
      const t = step / steps;
      box = around(box, this.stamp(from.x + (to.x - from.x) * t, from.y + (to.y - from.y) * t, size, value));
    }
    return box;
  }

  // Pixels that hang together by edges with the one at (x, y) and that `inside` lets in.
  piece(x, y, inside) {
    const { width, height } = this;
    const found = new Uint8Array(width * height);
    const stack = [y * width + x];
    let touches = false;
    let count = 0;
    if (!inside(stack[0])) return { found, count, touches };
    found[stack[0]] = 1;
    while (stack.length) {
      const at = stack.pop();
      const column = at % width;
      count++;
      if (column === 0 || column === width - 1 || at < width || at >= width * (height - 1)) touches = true;
      const look = (next) => { if (!found[next] && inside(next)) { found[next] = 1; stack.push(next); } };
      if (column > 0) look(at - 1);
      if (column < width - 1) look(at + 1);
      if (at >= width) look(at - width);
      if (at < width * (height - 1)) look(at + width);
    }
    return { found, count, touches };
  }

  // Returns why not, or nothing.
  fill(x, y, value) {
    const old = this.classes[y * this.width + x];
    if (old === value) return "";
    const { found, touches } = this.piece(x, y, (at) => this.classes[at] === old);
    if (touches && old === 0) return "this reaches the edge of the picture: close the outline first";
    this.put(found, value);
    return "";
  }

  remove(x, y) {
    const old = this.classes[y * this.width + x];
    if (old === 0) return "no mask here: click on the piece that is to go";
    this.put(this.piece(x, y, (at) => this.classes[at] === old).found, 0);
    return "";
  }

  // All that hangs together within bounds, but not around the body; its small holes come along.
  grow(x, y, value, { values, low, high, outside }) {
    const within = (at) => values[at] >= low && values[at] <= high && !outside[at];
    if (!within(y * this.width + x)) {
      const found = values[y * this.width + x];
      return outside[y * this.width + x] ? "this is outside the body" : `${Math.round(found)} is not within the bounds of lung`;
    }
    const { found } = this.piece(x, y, within);
    this.put(withoutHoles(found, this.width, this.height), value);
    return "";
  }

  put(found, value) {
    for (let at = 0; at < found.length; at++) if (found[at]) this.classes[at] = value;
  }

  // Small holes get the class to the left of their first pixel.
  closeHoles() {
    const inside = Uint8Array.from(this.classes, (c) => (c ? 1 : 0));
    const filled = withoutHoles(inside, this.width, this.height);
    for (let at = 0; at < filled.length; at++) {
      if (filled[at] && !this.classes[at]) this.classes[at] = this.classes[at - 1];
    }
  }

  swap(a, b) {
    for (let at = 0; at < this.classes.length; at++) {
      const c = this.classes[at];
      if (c === a) this.classes[at] = b;
      else if (c === b) this.classes[at] = a;
    }
  }

  // Masks of as many classes are taken whole; of others their lung for the class that is chosen.
  take(other, classes, own, value) {
    if (classes === own || classes === 0) { this.classes.set(other); return; }
    for (let at = 0; at < other.length; at++) {
      const c = this.classes[at];
      if (c === value && !other[at]) this.classes[at] = 0;
      else if (c === 0 && other[at]) this.classes[at] = value;
    }
  }
}

// A region with the small holes in it: vessels, not the dome of the liver.
function withoutHoles(inside, width, height) {
  const most = Math.max(9, HOLE * width * height);
  const seen = Uint8Array.from(inside);
  const filled = Uint8Array.from(inside);
  const stack = [];
  for (let begin = 0; begin < seen.length; begin++) {
    if (seen[begin]) continue;
    const hole = [];
    let open = false;
    const look = (at) => { if (!seen[at]) { seen[at] = 1; stack.push(at); } };
    look(begin);
    while (stack.length) {
      const at = stack.pop();
      const column = at % width;
      if (hole.length <= most) hole.push(at);
      if (column > 0) look(at - 1); else open = true;
      if (column < width - 1) look(at + 1); else open = true;
      if (at >= width) look(at - width); else open = true;
      if (at < width * (height - 1)) look(at + width); else open = true;
    }
    if (!open && hole.length <= most) for (const at of hole) filled[at] = 1;
  }
  return filled;
}

// What changed between two states of a mask: a box, before and after. Null where nothing did.
export function difference(before, after, width) {
  let [top, bottom, left, right] = [Infinity, -1, Infinity, -1];
  for (let at = 0; at < after.length; at++) {
    if (before[at] === after[at]) continue;
    const x = at % width;
    const y = (at - x) / width;
    if (y < top) top = y;
    if (y > bottom) bottom = y;
    if (x < left) left = x;
    if (x > right) right = x;
  }
  if (bottom < 0) return null;
  const cut = (from) => {
    const box = new Uint8Array((bottom - top + 1) * (right - left + 1));
    for (let y = top; y <= bottom; y++) {
      box.set(from.subarray(y * width + left, y * width + right + 1), (y - top) * (right - left + 1));
    }
    return box;
  };
  return { top, left, wide: right - left + 1, before: cut(before), after: cut(after) };
}

export function apply(change, box, classes, width) {
  for (let at = 0; at < box.length; at += change.wide) {
    classes.set(box.subarray(at, at + change.wide), (change.top + at / change.wide) * width + change.left);
  }
}

// The edges around one class within a box, as long straight lines in pixels of the slice. One pass, row by
// row: this runs at every picture of a stroke.
export function outline(classes, width, height, value, box = { left: 0, top: 0, right: width, bottom: height }) {
  const path = new Path2D();
  const begun = new Int32Array(width + 1).fill(-1); // where the upright line at this column began
  const upright = (x, y) => { path.moveTo(x, begun[x]); path.lineTo(x, y); begun[x] = -1; };
  const level = (start, x, y) => { path.moveTo(start, y); path.lineTo(x, y); };
  for (let y = box.top; y <= box.bottom; y++) {
    const row = y * width;
    let start = -1; // of the level line above this row
    let left = box.left > 0 && y < height && classes[row + box.left - 1] === value;
    for (let x = box.left; x <= box.right; x++) {
      const within = x < width && y < height && classes[row + x] === value;
      const above = x < width && y > 0 && classes[row - width + x] === value;
      if (within !== above) {
        if (start < 0) start = x;
      } else if (start >= 0) {
        level(start, x, y);
        start = -1;
      }
      if (within !== left) {
        if (begun[x] < 0) begun[x] = y;
      } else if (begun[x] >= 0) upright(x, y);
      left = within;
    }
    if (start >= 0) level(start, box.right + 1, y);
  }
  for (let x = box.left; x <= box.right; x++) if (begun[x] >= 0) upright(x, box.bottom + 1);
  return path;
}

// Which classes a mask holds, background aside.
export function classesOf(classes) {
  const held = new Uint8Array(256);
  for (let at = 0; at < classes.length; at++) held[classes[at]] = 1;
  return [...held.keys()].filter((c) => c && held[c]);
}
