// What the page knows of the study: its images and, for one annotator, the present label of each.

import { BAD, GOOD, counts, fromRuns, toRuns } from "./mask.js";

/** An item is one showing of one image: {id, repeat}; repeat 1 is the second labelling, for self-agreement. */
export const keyOf = (item) => `${item.id}#${item.repeat}`;
export const same = (a, b) => a?.id === b?.id && a?.repeat === b?.repeat;
export const itemOf = (key) => ({ id: key.slice(0, key.lastIndexOf("#")), repeat: Number(key.slice(key.lastIndexOf("#") + 1)) });

export class Study {
  #states = new Map();
  #blank = new Map();

  constructor(data) {
    this.id = data.study.id;
    this.name = data.study.name;
    this.annotator = data.annotator;
    this.images = new Map(data.images.map((image) => [image.id, { ...image, h: image.grid[0], w: image.grid[1] }]));
    this.order = data.images.map((image) => image.id);
    this.again = new Set(data.again);
    this.lag = data.lag;
    this.masks = data.masks; // how often masks have been learned: after every eight painted images
    this.disagreements = new Map(Object.entries(data.disagreements));
    this.last = data.last;
    this.version = 0; // counts changes of the states, so that what is made of all of them can be kept until the next
    this.revisions = new Map();
    for (const label of data.labels) this.adopt(label);
  }

  /** Takes a label as the server sent it. Returns its state. */
  adopt(label) {
    const item = { id: label.image_id, repeat: label.repeat ?? 0 }, state = this.stateOf(label);
    this.set(item, state);
    this.revisions.set(keyOf(item), label.revision);
    return state;
  }

  set(item, state) {
    this.#states.set(keyOf(item), Object.freeze(state));
    this.version++;
  }

  /** The state that a label or a change gave the item; undefined if it has none yet. */
  known(item) {
    return this.#states.get(keyOf(item));
  }

  get states() {
    return this.#states.entries();
  }

  stateOf(label) {
    const { h, w } = this.images.get(label.image_id);
    return Object.freeze({
      classes: fromRuns(label.classes, h * w), kinds: fromRuns(label.kinds, h * w), verdict: label.verdict ?? null,
      note: label.note ?? "", accepted: Boolean(label.accepted_proposal), seconds: label.seconds ?? 0,
    });
  }

  /** The present state of an item. States are never changed in place: history keeps them. */
  state(item) {
    return this.known(item) ?? this.#blankOf(this.images.get(item.id));
  }

  #blankOf({ h, w }) {
    if (!this.#blank.has(h * w)) {
      this.#blank.set(h * w, Object.freeze({
        classes: new Uint8Array(h * w), kinds: new Uint8Array(h * w), verdict: null, note: "", accepted: false, seconds: 0,
      }));
    }
    return this.#blank.get(h * w);
  }

  /** The body of a save, without the fields that the outbox adds. */
  payload(item, state) {
    return {
      study: this.id, annotator: this.annotator, image_id: item.id, repeat: item.repeat,
      classes: toRuns(state.classes), kinds: state.kinds.some(Boolean) ? toRuns(state.kinds) : null,
      verdict: state.verdict, note: state.note, accepted_proposal: state.accepted,
      seconds: Math.round(state.seconds * 10) / 10,
    };
  }
}

const painted = new WeakMap(); // thousands of images are asked at every key

export function isPainted({ classes }) {
  if (!painted.has(classes)) painted.set(classes, classes.some((value) => value === GOOD || value === BAD));
  return painted.get(classes);
}

/** A painted image speaks for itself: one bad token makes it bad. Without a hand token the verdict stays as it was. */
export function verdictOf(classes, before) {
  const [, good, bad] = counts(classes);
  return bad ? "bad" : good ? "good" : before;
}
