// Where one has been: back and forward as in a browser.

import { same } from "./study.js";

export class Trail {
  #items = [];
  #at = -1;

  /** A new place; it ends what lay ahead. */
  add(item) {
    if (same(this.#items[this.#at], item)) return;
    this.#items.splice(this.#at + 1, Infinity, item);
    this.#at = this.#items.length - 1;
  }

  /** The place before (-1) or after (1) the present one, which becomes the present; null at an end. */
  step(direction) {
    const item = this.#items[this.#at + direction] ?? null;
    if (item) this.#at += direction;
    return item;
  }
}
