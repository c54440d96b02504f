// Draws a slice at a window, with masks over it, zoomed and moved. Knows no server.

import { around, classesOf, outline } from "./mask.js";

export const COLOURS = ["", "#40c8ff", "#ff8c00", "#7ddc6f", "#ff6fae", "#f5e663", "#b18cff", "#5ee0c8", "#ff7b6b"];
const LAYERS = { model: "#ff8c00", rule: "#d28bff", first: "#f2f2f2" };
const [LEAST, MOST] = [0.2, 40];
const LINE = 1.5; // px
const WHOLE = { left: -Infinity, top: -Infinity, right: Infinity, bottom: Infinity };


export const colourOf = (index) => COLOURS[1 + ((index - 1) % (COLOURS.length - 1))];

const layerOf = (classes) => ({ classes, kinds: classesOf(classes), whole: null }); // whole: its outlines, once made

// As canvases keep colours; 0 is seen through.
const BYTES = Uint32Array.from({ length: 256 }, (_, at) => {
  const n = at && parseInt(colourOf(at).slice(1), 16);
  return at && ((255 << 24) | ((n & 255) << 16) | (n & 0xff00) | (n >> 16)) >>> 0;
});

export class View {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.grey = document.createElement("canvas");
    this.paint = document.createElement("canvas");
    this.look = { level: -600, width: 1500 };
    this.layers = {};
    this.showMask = true;
    this.filled = false;
    this.opacity = 0.45;
    this.pointer = null;
    this.circle = null; // where the brush was drawn, in pixels of the slice
    this.brush = 0;
    this.due = null; // the box, in pixels of the slice, that is drawn with the next picture
    new ResizeObserver(() => this.resize()).observe(canvas);
  }

  // image: width, height, values, and ratio (height of a pixel over its width)
  show(image, mask, { keep } = {}) {
    const alike = this.image && this.image.width === image.width && this.image.height === image.height;
    this.image = image;
    this.mask = mask;
    this.ratio = image.ratio || 1;
    this.layers = {};
    for (const each of [this.grey, this.paint]) { each.width = image.width; each.height = image.height; }
    this.greyPixels = new ImageData(image.width, image.height);
    this.paintPixels = new ImageData(image.width, image.height);
    this.window();
    this.repaint();
    if (!keep || !alike) this.fit();
    this.draw();
  }

  clear() { this.image = null; this.draw(); }

  resize() {
    const box = this.canvas.getBoundingClientRect();
    const dense = devicePixelRatio || 1;
    const { width, height } = this.canvas;
    this.canvas.width = Math.max(1, Math.round(box.width * dense));
    this.canvas.height = Math.max(1, Math.round(box.height * dense));
    if (this.image && this.fitted) this.fit();
    else { // a banner came or went: what is looked at stays in the middle
      this.left += (this.canvas.width - width) / 2;
      this.top += (this.canvas.height - height) / 2;
    }
    this.draw();
  }

  fit() {
    this.fitted = true;
    const { width, height } = this.canvas;
    this.scale = Math.min(width / this.image.width, height / (this.image.height * this.ratio)) * 0.98;
    this.left = (width - this.image.width * this.scale) / 2;
    this.top = (height - this.image.height * this.scale * this.ratio) / 2;
    this.draw();
  }

  zoom(factor, x, y) {
    const scale = Math.min(MOST, Math.max(LEAST, this.scale * factor));
    const real = scale / this.scale;
    this.left = x - (x - this.left) * real;
    this.top = y - (y - this.top) * real;
    this.scale = scale;
    this.fitted = false;
    this.draw();
  }

  move(dx, dy) { this.left += dx; this.top += dy; this.fitted = false; this.draw(); }

  // From a pointer's place in the window to pixels of the slice, with fractions.
  toSlice(event) {
    const box = this.canvas.getBoundingClientRect();
    const dense = this.canvas.width / box.width;
    const [x, y] = [(event.clientX - box.left) * dense, (event.clientY - box.top) * dense];
    return { x: (x - this.left) / this.scale, y: (y - this.top) / (this.scale * this.ratio), screenX: x, screenY: y };
  }

  window() {
    const { values } = this.image;
    const low = this.look.level - this.look.width / 2;
    const step = 255 / this.look.width;
    const pixels = new Uint32Array(this.greyPixels.data.buffer);
    const grey = (value) => {
      const g = Math.max(0, Math.min(255, Math.round((value - low) * step)));
      return (255 << 24) | (g << 16) | (g << 8) | g;
    };
    if (values instanceof Float32Array) {
      for (let at = 0; at < values.length; at++) pixels[at] = grey(values[at]);
    } else {
      const first = values instanceof Int16Array ? -32768 : 0;
      const table = new Uint32Array(values instanceof Int16Array ? 65536 : 256);
      for (let at = 0; at < table.length; at++) table[at] = grey(at + first);
      for (let at = 0; at < values.length; at++) pixels[at] = table[values[at] - first];
    }
    this.grey.getContext("2d").putImageData(this.greyPixels, 0, 0);
    this.draw();
  }

  // The mask changed in a box: left, top, right, bottom, in pixels of the slice.
  repaint(box = WHOLE) {
    this.stale = around(this.stale, box);
    this.own = null;
    this.draw(box);
  }

  // Where the pointer is in the window, with clientX and clientY; null where it is not over the slice.
  point(place) {
    this.pointer = place && { clientX: place.clientX, clientY: place.clientY };
    if (!this.image || !this.brush) return;
    const reach = this.brush / 2 + 1;
    for (const each of [this.circle, place && this.toSlice(place)]) {
      if (each) this.draw({ left: each.x - reach, top: each.y - reach, right: each.x + reach, bottom: each.y + reach });
    }
  }

  setBrush(size) { this.brush = size; this.draw(); }

  setLayer(name, classes) {
    if (classes) this.layers[name] = layerOf(classes);
    else delete this.layers[name];
    this.draw();
  }

  // Draws with the next picture of the screen, however often it is asked for until then: a part of the
  // slice, for a stroke on a large screen leaves no time for all of it.
  draw(box = WHOLE) {
    const waiting = this.due !== null;
    this.due = around(this.due, box);
    if (!waiting) requestAnimationFrame(() => this.render());
  }

  render() {
    const { context, canvas, image, due } = this;
    this.due = null;
    const [sx, sy] = image ? [this.scale, this.scale * this.ratio] : [1, 1];
    const x = Math.max(0, Math.floor(this.left + due.left * sx - 2 * LINE)) || 0;
    const y = Math.max(0, Math.floor(this.top + due.top * sy - 2 * LINE)) || 0;
    const wide = Math.min(canvas.width, Math.ceil(this.left + due.right * sx + 2 * LINE) || canvas.width) - x;
    const high = Math.min(canvas.height, Math.ceil(this.top + due.bottom * sy + 2 * LINE) || canvas.height) - y;
    if (wide <= 0 || high <= 0) return;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.save();
    context.beginPath();
    context.rect(x, y, wide, high);
    context.clip();
    context.fillStyle = "#000";
    context.fillRect(x, y, wide, high);
    if (image) this.renderSlice(sx, sy, this.boxOf(x, y, wide, high));
    context.restore();
    if (image) Object.assign(canvas.dataset, { scale: this.scale, left: this.left, top: this.top });
  }

  // The pixels of the slice that a box of the screen shows, and one more each way.
  boxOf(x, y, wide, high) {
    const [sx, sy] = [this.scale, this.scale * this.ratio];
    return {
      left: Math.max(0, Math.floor((x - this.left) / sx) - 1), right: Math.min(this.image.width, Math.ceil((x + wide - this.left) / sx) + 1),
      top: Math.max(0, Math.floor((y - this.top) / sy) - 1), bottom: Math.min(this.image.height, Math.ceil((y + high - this.top) / sy) + 1),
    };
  }

  renderSlice(sx, sy, box) {
    const { context } = this;
    context.setTransform(sx, 0, 0, sy, this.left, this.top);
    context.imageSmoothingEnabled = this.scale < 3;
    context.drawImage(this.grey, 0, 0);
    if (this.showMask && this.filled) {
      if (this.stale) this.colour();
      context.imageSmoothingEnabled = false;
      context.globalAlpha = this.opacity;
      context.drawImage(this.paint, 0, 0);
    }
    // Lines keep their width on the screen, so the places are scaled and the pen is not.
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.lineWidth = LINE;
    context.globalAlpha = this.filled ? 1 : Math.min(1, 0.4 + this.opacity);
    for (const [colour, path] of this.lines(box)) {
      const scaled = new Path2D();
      scaled.addPath(path, { a: sx, d: sy, e: this.left, f: this.top });
      context.strokeStyle = colour;
      context.stroke(scaled);
    }
    context.globalAlpha = 1;
    context.setTransform(sx, 0, 0, sy, this.left, this.top);
    context.lineWidth = LINE / sx;
    this.circle = this.pointer && this.brush ? this.toSlice(this.pointer) : null;
    if (this.circle) this.drawBrush(context);
  }

  lines(box) {
    const { width, height } = this.image;
    const layers = { ...this.layers };
    if (this.showMask && !this.filled) layers.own = this.own ||= layerOf(this.mask.classes);
    const whole = box.right - box.left === width && box.bottom - box.top === height;
    return Object.entries(layers).flatMap(([name, layer]) => {
      const paths = (whole && layer.whole) || layer.kinds.map((kind) => outline(layer.classes, width, height, kind, box));
      if (whole) layer.whole = paths;
      return layer.kinds.map((kind, place) => [LAYERS[name] || colourOf(kind), paths[place]]);
    });
  }

  // Puts what changed of the mask into the coloured picture of it.
  colour() {
    const { classes, width, height } = this.mask;
    const [left, top] = [Math.max(0, Math.floor(this.stale.left)), Math.max(0, Math.floor(this.stale.top))];
    const [right, bottom] = [Math.min(width, Math.ceil(this.stale.right)), Math.min(height, Math.ceil(this.stale.bottom))];
    this.stale = null;
    if (right <= left || bottom <= top) return;
    const pixels = new Uint32Array(this.paintPixels.data.buffer);
    for (let y = top; y < bottom; y++) {
      for (let at = y * width + left; at < y * width + right; at++) pixels[at] = BYTES[classes[at]];
    }
    this.paint.getContext("2d").putImageData(this.paintPixels, 0, 0, left, top, right - left, bottom - top);
  }

  drawBrush(context) {
    const odd = this.brush % 2 === 1;
    const x = odd ? Math.floor(this.circle.x) + 0.5 : Math.round(this.circle.x);
    const y = odd ? Math.floor(this.circle.y) + 0.5 : Math.round(this.circle.y);
    context.strokeStyle = "#fff";
    context.beginPath();
    context.arc(x, y, this.brush / 2, 0, 2 * Math.PI);
    context.stroke();
  }
}
