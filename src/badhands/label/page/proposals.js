// Masks that machines offer: the judge's, those of mask folders, and the one that learns while one paints.

import { BAD, GOOD, NOT_HAND, fromRuns } from "./mask.js";
import { keep, recall } from "./store.js";
import { isPainted, verdictOf } from "./study.js";

const SURELY_NOT = 5; // percent: below it a learned mask says "not hand", between it and the threshold nothing

export class Proposals {
  #known = new Map();

  constructor(app) {
    this.app = app;
    this.threshold = Number(recall("badhands:threshold")) || 50; // percent
  }

  get here() {
    return (this.app.item && this.#known.get(this.app.item.id)) ?? [];
  }

  /** Masks were learned anew: what was offered is out of date. */
  forget() {
    this.#known.clear();
  }

  async load(item) {
    const { study } = this.app;
    if (!this.#known.has(item.id)) {
      const response = await fetch(`api/proposals/${encodeURIComponent(item.id)}?${new URLSearchParams({ annotator: study.annotator })}`).catch(() => null);
      if (!response?.ok) return;
      this.#known.set(item.id, await response.json());
    }
    if (this.app.item === item) this.show();
  }

  setThreshold(percent) {
    this.threshold = percent;
    keep("badhands:threshold", String(percent));
    this.show();
  }

  /** Outlines the first proposal on an image that is not painted yet, and lists all of them. */
  show() {
    const { app } = this;
    const offered = app.mode === "paint" && app.item && this.here.length && !isPainted(app.state);
    app.view.proposed = offered ? this.#mask(this.here[0]).classes : null;
    app.view.redraw("mask");
    app.panel.render();
  }

  /** A proposal that knows hands but not their quality takes it from the verdict, without one from the class in use. */
  #mask(proposal) {
    const { app } = this, length = app.state.classes.length;
    const hand = { good: GOOD, bad: BAD }[app.state.verdict] ?? (app.painter.value === BAD ? BAD : GOOD);
    if (proposal.chance) {
      const classes = Uint8Array.from(proposal.chance, (chance) => (chance >= this.threshold ? hand : chance <= SURELY_NOT ? NOT_HAND : 0));
      return { classes, kinds: new Uint8Array(length) };
    }
    const classes = fromRuns(proposal.classes, length), kinds = fromRuns(proposal.kinds, length);
    if (proposal.quality) return { classes, kinds };
    return { classes: classes.map((value) => (value === GOOD || value === BAD ? hand : value)), kinds };
  }

  /** Whether there was one to accept. */
  accept(position = 0) {
    const { app } = this, proposal = this.here[position];
    if (!proposal) return app.panel.say("There is no proposal for this image.");
    if (!app.ready) return false;
    const { classes, kinds } = this.#mask(proposal);
    app.change({ classes, kinds, verdict: verdictOf(classes, app.state.verdict), accepted: true });
    app.panel.say("The proposal is accepted. Z takes it back.");
    return true;
  }

  acceptAndGo() {
    if (this.accept()) this.app.go(1);
  }
}
