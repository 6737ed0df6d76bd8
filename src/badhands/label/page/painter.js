// The tools: brush, rectangle, lasso, fill and pan, by mouse, pen, touch, or the keyboard's token cursor.

import { BAD, GOOD, UNLABELLED, brushTokens, hands, lassoTokens, rectangleTokens, region } from "./mask.js";

export const SIZES = [1, 2, 3, 4, 6, 8, 12];
const REST = 200; // milliseconds

export class Painter {
  #pointers = new Map();
  #stroke = null;
  #pinch = null;

  /** `host` has `enabled`, `ready` (the picture is seen), `state` (classes, kinds) and `commit(classes, kinds)`. */
  constructor(view, host) {
    this.view = view;
    this.host = host;
    this.tool = "brush";
    this.value = BAD;
    this.size = 3;
    this.cursor = null; // {row, column} once the keyboard is in use
    this.anchor = null; // first corner of a rectangle drawn with the keyboard
    this.hover = null;
    this.touched = null; // a token of the hand that was touched last, for the buttons beside the picture
    this.resting = null; // {token, since}: the hand under the pointer
    const surface = this.surface = view.mask.canvas;
    surface.addEventListener("pointerdown", (event) => this.#down(event));
    surface.addEventListener("pointermove", (event) => this.#move(event));
    surface.addEventListener("pointerup", (event) => this.#up(event));
    surface.addEventListener("pointercancel", (event) => this.#cancelPointer(event));
    surface.addEventListener("pointerleave", () => this.#leave());
    surface.addEventListener("contextmenu", (event) => event.preventDefault());
    surface.addEventListener("auxclick", (event) => event.preventDefault());
    surface.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
  }

  get busy() {
    return this.#stroke !== null;
  }

  /** Forgets what is half done: the item on screen is about to change. */
  reset() {
    this.cancel();
    this.cursor = null;
    this.touched = this.resting = null;
    this.showTools();
  }

  cancel() {
    const busy = this.#stroke !== null || this.anchor !== null || this.view.overlay.lasso;
    this.#stroke = this.anchor = null;
    this.view.overlay = {};
    this.view.setMask(this.host.state.classes);
    this.showTools();
    return Boolean(busy);
  }

  /** A token of the hand that a hand key speaks of: under the keyboard cursor or the pointer, else the one touched last. */
  target() {
    const { w } = this.view.size, under = this.cursor ? this.cursor.row * w + this.cursor.column : this.#under();
    return [under, this.touched].find((token) => this.#isHand(token)) ?? null;
  }

  #under() {
    const { h, w } = this.view.size;
    if (!this.hover) return null;
    const [x, y] = this.hover.map(Math.floor);
    return x >= 0 && y >= 0 && x < w && y < h ? y * w + x : null;
  }

  #isHand(token) {
    const value = token === null ? 0 : this.host.state.classes[token];
    return value === GOOD || value === BAD;
  }

  /** Remembers the hand at a token, if there is one. */
  #touch(token) {
    if (this.#isHand(token)) this.touched = token;
  }

  /** The pointer touches a hand by resting on it: what it only crosses on its way to a button is not meant. */
  #rest(token) {
    const now = performance.now();
    if (this.resting && now - this.resting.since > REST) this.#touch(this.resting.token);
    this.resting = this.#isHand(token) ? { token, since: this.resting?.since ?? now } : null;
  }

  showTools() {
    const overlay = this.view.overlay, painting = this.host.enabled;
    overlay.cursor = painting ? this.cursor : null;
    overlay.brush = painting && this.hover && !this.cursor && this.tool === "brush" ? { at: this.hover, size: this.size } : null;
    this.view.touched = painting && !this.#stroke && this.target() !== null ? region(this.view.size, this.host.state.classes, this.target(), true) : null;
    if (this.anchor && this.cursor) overlay.rectangle = cornersOf(this.anchor, this.cursor);
    this.surface.style.cursor = !painting ? "default" : this.tool === "pan" ? "grab" : this.tool === "brush" ? "none" : "crosshair";
    this.view.redraw("mask");
  }

  // Pointer -------------------------------------------------------------------------------------------------------

  #down(event) {
    this.surface.focus({ preventScroll: true });
    this.surface.setPointerCapture(event.pointerId);
    this.#pointers.set(event.pointerId, [event.clientX, event.clientY]);
    this.cursor = null;
    this.anchor = null;
    if (this.#pointers.size === 2) return this.#startPinch();
    if (this.#pointers.size > 2) return;
    const pans = this.tool === "pan" || event.button === 1 || event.ctrlKey || event.metaKey || !this.host.enabled;
    const at = this.view.toTokens(event.clientX, event.clientY);
    if (pans) this.#stroke = { tool: "pan", at: [event.clientX, event.clientY] };
    else if (this.host.ready) this.#begin(at, event.button === 2 ? UNLABELLED : this.value);
    this.hover = at;
    if (this.host.enabled) this.#touch(this.#under());
    event.preventDefault();
  }

  #move(event) {
    this.hover = this.view.toTokens(event.clientX, event.clientY);
    if (this.#pointers.has(event.pointerId)) {
      const before = this.#pointers.get(event.pointerId), now = [event.clientX, event.clientY];
      this.#pointers.set(event.pointerId, now);
      if (this.#pinch) this.#movePinch();
      else if (this.#stroke?.tool === "pan") this.view.panBy(now[0] - before[0], now[1] - before[1]);
      else if (this.#stroke) {
        const samples = event.getCoalescedEvents?.() ?? [];
        for (const sample of samples.length ? samples : [event]) {
          this.#continue(this.view.toTokens(sample.clientX, sample.clientY));
        }
        this.view.setMask(this.#stroke.classes);
      }
    }
    if (this.host.enabled && !this.#stroke) this.#rest(this.#under());
    if (!this.cursor) this.showTools();
  }

  #up(event) {
    this.#pointers.delete(event.pointerId);
    if (this.#pinch) {
      if (!this.#pointers.size) this.#pinch = null;
      return;
    }
    if (this.#stroke?.tool === "pan") this.#stroke = null;
    else if (this.#stroke) this.#finish();
    if (event.pointerType === "touch") this.#leave();
  }

  #cancelPointer(event) {
    this.#pointers.delete(event.pointerId);
    if (!this.#pointers.size) this.#pinch = null;
    this.cancel();
  }

  #leave() {
    this.#rest(null);
    this.hover = null;
    this.showTools();
  }

  #wheel(event) {
    event.preventDefault();
    const unit = event.deltaMode === 1 ? 30 : 1;
    if (event.shiftKey) this.view.panBy(-(event.deltaX || event.deltaY) * unit, event.deltaX ? -event.deltaY * unit : 0);
    else this.view.zoomBy(Math.exp(-event.deltaY * unit * 0.0015), event.clientX, event.clientY);
  }

  /** A second finger turns the stroke that the first began into zooming and panning; nothing is painted. */
  #startPinch() {
    this.cancel();
    this.#pinch = this.#fingers();
  }

  #movePinch() {
    if (this.#pointers.size < 2) return;
    const before = this.#pinch, now = this.#pinch = this.#fingers();
    this.view.panBy(now.x - before.x, now.y - before.y);
    this.view.zoomBy(now.apart / before.apart, now.x, now.y);
  }

  #fingers() {
    const [[x0, y0], [x1, y1]] = [...this.#pointers.values()];
    return { x: (x0 + x1) / 2, y: (y0 + y1) / 2, apart: Math.max(10, Math.hypot(x1 - x0, y1 - y0)) };
  }

  // Strokes -------------------------------------------------------------------------------------------------------

  #begin(at, value) {
    const { classes, kinds } = this.host.state;
    this.#stroke = { tool: this.tool, value, start: at, last: at, points: [at], classes: classes.slice(), kinds: kinds.slice() };
    this.#continue(at);
    this.view.setMask(this.#stroke.classes);
  }

  #continue(at) {
    const stroke = this.#stroke, grid = this.view.size;
    if (stroke.tool === "brush") this.#apply(brushTokens(grid, ...stroke.last, ...at, this.size));
    else if (stroke.tool === "rectangle") this.view.overlay.rectangle = [stroke.start, at];
    else if (stroke.tool === "lasso") this.view.overlay.lasso = stroke.points = [...stroke.points, at];
    stroke.last = at;
  }

  #apply(tokens) {
    const { classes, kinds, value } = this.#stroke;
    for (const token of tokens) {
      if (classes[token] !== value) kinds[token] = 0;
      classes[token] = value;
    }
  }

  #finish() {
    const stroke = this.#stroke, grid = this.view.size;
    if (stroke.tool === "rectangle") this.#apply(rectangleTokens(grid, ...stroke.start, ...stroke.last));
    else if (stroke.tool === "lasso") this.#apply(lassoTokens(grid, stroke.points, stroke.corners));
    else if (stroke.tool === "fill") {
      const [x, y] = stroke.last.map(Math.floor);
      if (x >= 0 && y >= 0 && x < grid.w && y < grid.h) this.#apply(region(grid, stroke.classes, y * grid.w + x, false));
    }
    this.#stroke = null;
    this.view.overlay = {};
    this.host.commit(stroke.classes, oneKindAHand(grid, stroke.classes, stroke.kinds));
    const [x, y] = stroke.last.map(Math.floor), inside = x >= 0 && y >= 0 && x < grid.w && y < grid.h;
    const painted = stroke.points.map(([column, row]) => Math.floor(row) * grid.w + Math.floor(column));
    this.#touch([inside ? y * grid.w + x : null, ...painted].find((token) => this.#isHand(token)) ?? null);
    this.showTools();
  }

  // Keyboard ------------------------------------------------------------------------------------------------------

  /** Moves the token cursor; with `paint` the brush paints on the way, as one stroke a step. */
  moveCursor(dr, dc, paint) {
    const { h, w } = this.view.size;
    const from = this.cursor ?? this.#startCursor();
    const to = this.cursor
      ? { row: Math.min(h - 1, Math.max(0, from.row + dr)), column: Math.min(w - 1, Math.max(0, from.column + dc)) } : from;
    this.cursor = to;
    this.hover = null;
    this.view.reveal(to.row, to.column);
    if (paint && this.tool === "brush") this.#strokeBetween(from, to);
    this.showTools();
  }

  #startCursor() {
    const { h, w } = this.view.size;
    const [x, y] = (this.hover ?? [w / 2, h / 2]).map(Math.floor);
    return { row: Math.min(h - 1, Math.max(0, y)), column: Math.min(w - 1, Math.max(0, x)) };
  }

  /** Space: paints at the cursor, sets a corner of the rectangle or of the lasso, or fills. */
  useCursor() {
    if (!this.cursor) return this.moveCursor(0, 0, false);
    const { row, column } = this.cursor, middle = [column + 0.5, row + 0.5];
    if (this.tool === "rectangle") {
      if (!this.anchor) this.anchor = this.cursor;
      else {
        const first = this.anchor;
        this.anchor = null;
        this.#strokeBetween(first, this.cursor);
      }
    } else if (this.tool === "lasso") {
      this.view.overlay.lasso = [...(this.view.overlay.lasso ?? []), middle];
    } else if (this.tool !== "pan") this.#strokeBetween(this.cursor, this.cursor);
    this.showTools();
  }

  /** Enter: closes a lasso drawn with the keyboard. Returns whether there was one. */
  closeLasso() {
    const points = this.view.overlay.lasso;
    if (this.#stroke || !points?.length) return false;
    this.#begin(points[0], this.value);
    // Corners set with the keyboard are whole tokens; a line drawn by hand only says what it goes round.
    Object.assign(this.#stroke, { points, corners: true });
    this.#finish();
    return true;
  }

  #strokeBetween(from, to) {
    if (!this.host.ready) return;
    this.#begin([from.column + 0.5, from.row + 0.5], this.value);
    this.#continue([to.column + 0.5, to.row + 0.5]);
    this.#finish();
  }
}

const cornersOf = (a, b) => [
  [Math.min(a.column, b.column), Math.min(a.row, b.row)], [Math.max(a.column, b.column) + 1, Math.max(a.row, b.row) + 1],
];

/** A bad hand is of one kind: tokens added to it take the kind that most of its tokens have. */
export function oneKindAHand(grid, classes, kinds) {
  const out = kinds.slice();
  for (const hand of hands(grid, classes, kinds)) {
    const votes = [0, 0, 0];
    for (const token of hand.tokens) votes[kinds[token]]++;
    const kind = hand.class !== BAD || !(votes[1] + votes[2]) ? 0 : votes[1] >= votes[2] ? 1 : 2;
    for (const token of hand.tokens) out[token] = kind;
  }
  return out;
}
