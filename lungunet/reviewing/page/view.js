// Draws a slice at a window, with masks over it, zoomed and moved. Knows no server.

import { classesOf, outline } from "./mask.js";

export const COLOURS = ["", "#40c8ff", "#ff8c00", "#7ddc6f", "#ff6fae", "#f5e663", "#b18cff", "#5ee0c8", "#ff7b6b"];
const LAYERS = { model: "#ff8c00", rule: "#d28bff", first: "#f2f2f2" };
const [LEAST, MOST] = [0.2, 40];

export const colourOf = (index) => COLOURS[1 + ((index - 1) % (COLOURS.length - 1))];

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
    this.brush = 0;
    this.waiting = false;
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
    this.canvas.width = Math.max(1, Math.round(box.width * dense));
    this.canvas.height = Math.max(1, Math.round(box.height * dense));
    if (this.image) this.fit();
    this.draw();
  }

  fit() {
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
    this.draw();
  }

  move(dx, dy) { this.left += dx; this.top += dy; this.draw(); }

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

  // The mask changed; drawn once a frame, however often this is said.
  repaint() { this.stale = true; this.draw(); }

  redraw() {
    this.stale = false;
    const { classes, width, height } = this.mask;
    this.outlines = [];
    if (this.filled) {
      const pixels = new Uint32Array(this.paintPixels.data.buffer);
      const table = new Uint32Array(256);
      for (let at = 1; at < 256; at++) {
        const n = parseInt(colourOf(at).slice(1), 16);
        table[at] = (255 << 24) | ((n & 255) << 16) | (n & 0xff00) | (n >> 16);
      }
      for (let at = 0; at < classes.length; at++) pixels[at] = table[classes[at]];
      this.paint.getContext("2d").putImageData(this.paintPixels, 0, 0);
      return;
    }
    this.outlines = classesOf(classes).map((c) => [colourOf(c), outline(classes, width, height, c)]);
  }

  setLayer(name, classes) {
    const { width, height } = this.image;
    if (classes) this.layers[name] = classesOf(classes).map((c) => outline(classes, width, height, c));
    else delete this.layers[name];
    this.draw();
  }

  draw() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => { this.waiting = false; this.render(); });
  }

  render() {
    const { context, canvas, image } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = "#000";
    context.fillRect(0, 0, canvas.width, canvas.height);
    if (!image) return;
    if (this.stale) this.redraw();
    const [sx, sy] = [this.scale, this.scale * this.ratio];
    context.setTransform(sx, 0, 0, sy, this.left, this.top);
    context.imageSmoothingEnabled = this.scale < 3;
    context.drawImage(this.grey, 0, 0);
    if (this.showMask && this.filled) {
      context.imageSmoothingEnabled = false;
      context.globalAlpha = this.opacity;
      context.drawImage(this.paint, 0, 0);
      context.globalAlpha = 1;
    }
    const lines = Object.entries(this.layers).flatMap(([name, paths]) => paths.map((path) => [LAYERS[name], path]));
    if (this.showMask && !this.filled) lines.push(...this.outlines);
    // Lines keep their width on the screen, so the places are scaled and the pen is not.
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.lineWidth = 1.5;
    context.globalAlpha = this.filled ? 1 : Math.min(1, 0.4 + this.opacity);
    for (const [colour, path] of lines) {
      const scaled = new Path2D();
      scaled.addPath(path, { a: sx, d: sy, e: this.left, f: this.top });
      context.strokeStyle = colour;
      context.stroke(scaled);
    }
    context.globalAlpha = 1;
    context.setTransform(sx, 0, 0, sy, this.left, this.top);
    context.lineWidth = 1.5 / sx;
    if (this.pointer && this.brush) this.drawBrush(context);
    canvas.dataset.scale = this.scale;
    canvas.dataset.left = this.left;
    canvas.dataset.top = this.top;
  }

  drawBrush(context) {
    const odd = this.brush % 2 === 1;
    const x = odd ? Math.floor(this.pointer.x) + 0.5 : Math.round(this.pointer.x);
    const y = odd ? Math.floor(this.pointer.y) + 0.5 : Math.round(this.pointer.y);
    context.strokeStyle = "#fff";
    context.beginPath();
    context.arc(x, y, this.brush / 2, 0, 2 * Math.PI);
    context.stroke();
  }
}
