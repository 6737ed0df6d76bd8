// The large picture: three canvases on top of each other (picture, grid, mask), zoom and pan.
// Painting redraws the mask canvas alone; the picture is drawn again only when the view moves.

import { BAD, GLOBAL, GOOD, LOCAL, NOT_HAND } from "./mask.js";

/** Colours of show/palette.py; blue and vermillion are told apart with every common colour blindness. */
export const COLOURS = { [GOOD]: [0, 114, 178], [BAD]: [213, 94, 0], [NOT_HAND]: [140, 140, 140] };
const EDGE = { [GOOD]: "#56b4f5", [BAD]: "#ff9a4d" };

export class View extends EventTarget {
  constructor(root) {
    super();
    this.root = root;
    [this.picture, this.grid, this.mask] = ["picture", "grid", "mask"].map((name) => {
      const canvas = root.querySelector(`canvas.${name}`);
      return canvas.getContext("2d");
    });
    this.tiles = document.createElement("canvas"); // one pixel a token
    this.opacity = 0.45;
    this.showGrid = true;
    this.painting = false; // triage looks at the picture without a grid
    this.image = null;
    this.drawn = false; // whether the image is on screen
    this.peeking = false;
    this.size = { h: 1, w: 1, width: 1, height: 1 };
    this.zoom = 1; // CSS pixels per image pixel
    this.x = this.y = 0;
    this.classes = null;
    this.hands = [];
    this.proposed = null; // classes of a mask that is offered
    this.touched = null; // tokens of the hand that was touched last
    this.overlay = {}; // cursor, brush, rectangle, lasso: what the tools want shown
    this.dirty = new Set();
    new ResizeObserver(() => this.#resize()).observe(root);
  }

  /** Shows an image of `width` x `height` pixels with an (h, w) token grid. The view fits it anew. */
  show(image, size) {
    this.image = image;
    this.drawn = false;
    this.size = size;
    this.tiles.width = size.w;
    this.tiles.height = size.h;
    this.pixels = new ImageData(size.w, size.h);
    this.fit();
  }

  setMask(classes, hands) {
    this.classes = classes;
    if (hands) this.hands = hands;
    this.redraw("mask");
  }

  fit() {
    const { width, height } = this.size, room = this.root.getBoundingClientRect(), margin = Math.min(12, room.width / 60, room.height / 60);
    this.zoom = Math.max(0.01, Math.min((room.width - 2 * margin) / width, (room.height - 2 * margin) / height));
    this.fitted = true;
    this.x = (room.width - width * this.zoom) / 2;
    this.y = (room.height - height * this.zoom) / 2;
    this.#moved();
  }

  /** Zooms by a factor around a point of the window, by default the middle. */
  zoomBy(factor, clientX, clientY) {
    const room = this.root.getBoundingClientRect();
    const px = clientX === undefined ? room.width / 2 : clientX - room.left;
    const py = clientY === undefined ? room.height / 2 : clientY - room.top;
    const token = this.size.width / this.size.w;
    const zoom = Math.min(160 / token, Math.max(4 / Math.max(this.size.width, this.size.height) * 20, this.zoom * factor));
    this.x = px - (px - this.x) * zoom / this.zoom;
    this.y = py - (py - this.y) * zoom / this.zoom;
    this.zoom = zoom;
    this.fitted = false;
    this.#keepInSight();
    this.#moved();
  }

  panBy(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.fitted = false;
    this.#keepInSight();
    this.#moved();
  }

  /** Pans just so far that a token is on screen. */
  reveal(row, column) {
    const room = this.root.getBoundingClientRect(), { width, w, height, h } = this.size;
    const side = this.zoom * width / w, tall = this.zoom * height / h;
    const left = this.x + column * side, top = this.y + row * tall;
    const dx = left < 0 ? 20 - left : left + side > room.width ? room.width - 20 - left - side : 0;
    const dy = top < 0 ? 20 - top : top + tall > room.height ? room.height - 20 - top - tall : 0;
    if (dx || dy) this.panBy(dx, dy);
  }

  /** A point of the window in token units: (3.5, 0.5) is the middle of the fourth token of the first row. */
  toTokens(clientX, clientY) {
    const room = this.picture.canvas.getBoundingClientRect(), { width, height, h, w } = this.size;
    return [(clientX - room.left - this.x) / this.zoom * w / width, (clientY - room.top - this.y) / this.zoom * h / height];
  }

  /** The inverse, for tests and for the keyboard. */
  toWindow(x, y) {
    const room = this.picture.canvas.getBoundingClientRect(), { width, height, h, w } = this.size;
    return [room.left + this.x + x * width / w * this.zoom, room.top + this.y + y * height / h * this.zoom];
  }

  redraw(...layers) {
    if (!this.dirty.size) requestAnimationFrame(() => this.#draw());
    for (const layer of layers) this.dirty.add(layer);
  }

  #keepInSight() {
    const room = this.root.getBoundingClientRect(), sight = 60;
    this.x = Math.min(room.width - sight, Math.max(sight - this.size.width * this.zoom, this.x));
    this.y = Math.min(room.height - sight, Math.max(sight - this.size.height * this.zoom, this.y));
  }

  #moved() {
    this.redraw("picture", "grid", "mask");
    this.dispatchEvent(new Event("moved"));
  }

  #resize() {
    const room = this.root.getBoundingClientRect(), scale = devicePixelRatio || 1;
    for (const { canvas } of [this.picture, this.grid, this.mask]) {
      canvas.width = Math.max(1, Math.round(room.width * scale));
      canvas.height = Math.max(1, Math.round(room.height * scale));
    }
    if (this.fitted) this.fit();
    else this.#moved();
  }

  #draw() {
    const layers = this.dirty;
    this.dirty = new Set();
    if (layers.has("picture")) this.#drawPicture();
    if (layers.has("grid")) this.#drawGrid();
    if (layers.has("mask")) this.#drawMask();
  }

  #start(context) {
    const scale = devicePixelRatio || 1;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, context.canvas.width, context.canvas.height);
    context.setTransform(scale, 0, 0, scale, 0, 0);
    return context;
  }

  #drawPicture() {
    const context = this.#start(this.picture);
    if (!this.image) return;
    context.imageSmoothingEnabled = this.zoom < 2; // enlarged pixels stay pixels: what the model drew, not a blur of it
    context.imageSmoothingQuality = "high";
    context.drawImage(this.image, this.x, this.y, this.size.width * this.zoom, this.size.height * this.zoom);
    this.drawn = true;
  }

  #drawGrid() {
    const context = this.#start(this.grid), { width, height, h, w } = this.size;
    const side = this.zoom * width / w, tall = this.zoom * height / h;
    if (!this.showGrid || !this.painting || this.peeking || side < 4) return;
    context.beginPath();
    for (let c = 0; c <= w; c++) {
      const x = Math.round(this.x + c * side) + 0.5;
      context.moveTo(x, this.y);
      context.lineTo(x, this.y + h * tall);
    }
    for (let r = 0; r <= h; r++) {
      const y = Math.round(this.y + r * tall) + 0.5;
      context.moveTo(this.x, y);
      context.lineTo(this.x + w * side, y);
    }
    context.lineWidth = 1;
    context.strokeStyle = "rgb(255 255 255 / 0.16)";
    context.stroke();
    context.setLineDash([1, 3]);
    context.strokeStyle = "rgb(0 0 0 / 0.3)";
    context.stroke();
    context.setLineDash([]);
  }

  #drawMask() {
    const context = this.#start(this.mask), { width, height, h, w } = this.size;
    const side = this.zoom * width / w, tall = this.zoom * height / h;
    if (this.classes && !this.peeking) {
      const data = this.pixels.data, classes = this.classes;
      for (let token = 0; token < classes.length; token++) {
        const colour = COLOURS[classes[token]], at = token * 4;
        data[at + 3] = colour ? 255 : 0;
        if (colour) [data[at], data[at + 1], data[at + 2]] = colour;
      }
      this.tiles.getContext("2d").putImageData(this.pixels, 0, 0);
      context.imageSmoothingEnabled = false;
      context.globalAlpha = this.opacity;
      context.drawImage(this.tiles, this.x, this.y, w * side, h * tall);
      context.globalAlpha = 1;
      this.#drawEdges(context, side, tall, this.classes);
      if (this.proposed) this.#drawEdges(context, side, tall, this.proposed, [5, 4]);
      this.#drawKinds(context, side, tall);
      if (this.touched) this.#drawTouched(context, side, tall);
    }
    this.#drawTools(context, side, tall);
  }

  /** Lines round the hands keep them visible whatever the opacity. */
  #drawEdges(context, side, tall, classes, dashes = []) {
    const { h, w } = this.size;
    context.setLineDash(dashes);
    for (const value of [GOOD, BAD]) {
      context.beginPath();
      for (let token = 0; token < classes.length; token++) {
        if (classes[token] !== value) continue;
        const row = Math.floor(token / w), column = token % w;
        const x = this.x + column * side, y = this.y + row * tall;
        if (row === 0 || classes[token - w] !== value) segment(context, x, y, x + side, y);
        if (row === h - 1 || classes[token + w] !== value) segment(context, x, y + tall, x + side, y + tall);
        if (column === 0 || classes[token - 1] !== value) segment(context, x, y, x, y + tall);
        if (column === w - 1 || classes[token + 1] !== value) segment(context, x + side, y, x + side, y + tall);
      }
      context.lineWidth = 2;
      context.lineCap = "square";
      context.strokeStyle = EDGE[value];
      context.stroke();
    }
    context.setLineDash([]);
  }

  /** A dashed line round the hand that flip, local and global speak of. */
  #drawTouched(context, side, tall) {
    const { touched, size: { h, w } } = this;
    context.beginPath();
    for (const token of touched) {
      const row = Math.floor(token / w), column = token % w, x = this.x + column * side, y = this.y + row * tall;
      if (row === 0 || !touched.has(token - w)) segment(context, x, y, x + side, y);
      if (row === h - 1 || !touched.has(token + w)) segment(context, x, y + tall, x + side, y + tall);
      if (column === 0 || !touched.has(token - 1)) segment(context, x, y, x, y + tall);
      if (column === w - 1 || !touched.has(token + 1)) segment(context, x + side, y, x + side, y + tall);
    }
    context.lineWidth = 4;
    context.strokeStyle = "#000";
    context.stroke();
    context.lineWidth = 2;
    context.setLineDash([6, 4]);
    context.strokeStyle = "#fff";
    context.stroke();
    context.setLineDash([]);
  }

  #drawKinds(context, side, tall) {
    context.font = "600 12px system-ui, sans-serif";
    context.textAlign = "center";
    context.textBaseline = "middle";
    for (const hand of this.hands) {
      if (hand.kind !== LOCAL && hand.kind !== GLOBAL) continue;
      const text = hand.kind === LOCAL ? "local" : "global", x = this.x + hand.x * side, y = this.y + hand.y * tall;
      const half = context.measureText(text).width / 2 + 7;
      context.fillStyle = "rgb(20 20 20 / 0.85)";
      context.beginPath();
      context.roundRect(x - half, y - 10, half * 2, 20, 10);
      context.fill();
      context.fillStyle = "#fff";
      context.fillText(text, x, y + 1);
    }
  }

  #drawTools(context, side, tall) {
    const { cursor, brush, rectangle, lasso } = this.overlay;
    const outline = (draw) => {
      for (const [colour, width] of [["rgb(0 0 0 / 0.85)", 4], ["#fff", 2]]) {
        context.beginPath();
        draw();
        context.lineWidth = width;
        context.strokeStyle = colour;
        context.stroke();
      }
    };
    const at = ([x, y]) => [this.x + x * side, this.y + y * tall];
    if (cursor) outline(() => context.rect(...at([cursor.column, cursor.row]), side, tall));
    if (brush) {
      const [x, y] = at(brush.at);
      outline(() => context.ellipse(x, y, brush.size / 2 * side, brush.size / 2 * tall, 0, 0, 7));
    }
    if (rectangle) {
      const [x0, y0] = at(rectangle[0]), [x1, y1] = at(rectangle[1]);
      outline(() => context.rect(Math.min(x0, x1), Math.min(y0, y1), Math.abs(x1 - x0), Math.abs(y1 - y0)));
    }
    if (lasso?.length) outline(() => lasso.forEach((point, i) => (i ? context.lineTo(...at(point)) : context.moveTo(...at(point)))));
  }
}

function segment(context, x0, y0, x1, y1) {
  context.moveTo(x0, y0);
  context.lineTo(x1, y1);
}
