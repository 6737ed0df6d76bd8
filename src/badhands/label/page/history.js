// Undo and redo without limit, one line of states for each item. States are shared, never changed in place.

import { keyOf } from "./study.js";

export class History {
  #lines = new Map();

  #line(item) {
    const key = keyOf(item);
    if (!this.#lines.has(key)) this.#lines.set(key, { past: [], future: [] });
    return this.#lines.get(key);
  }

  /** Remembers `before`, the state that a change has just replaced. */
  push(item, before) {
    const line = this.#line(item);
    line.past.push(before);
    line.future = [];
  }

  undo(item, present) {
    return move(this.#line(item).past, this.#line(item).future, present);
  }

  redo(item, present) {
    return move(this.#line(item).future, this.#line(item).past, present);
  }

  can(item) {
    return { undo: this.#line(item).past.length, redo: this.#line(item).future.length };
  }
}

function move(from, to, present) {
  if (!from.length) return null;
  to.push(present);
  return from.pop();
}
