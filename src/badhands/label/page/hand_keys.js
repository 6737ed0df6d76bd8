// Verbs for one hand of the mask (flip it, mark its error) and for the mask as a whole.

import { BAD, GOOD, NOT_HAND, UNLABELLED, hands, region } from "./mask.js";
import { oneKindAHand } from "./painter.js";
import { verdictOf } from "./study.js";

export class HandKeys {
  constructor(app) {
    this.app = app;
  }

  /** Tokens of the hand that a verb speaks of: under the cursor or pointer, else touched last, else the only one. */
  #tokens() {
    const { app } = this;
    if (!app.item || !app.ready) return null;
    const { classes, kinds } = app.state;
    const token = app.painter.target();
    if (token !== null) return region(app.view.size, classes, token, true);
    const all = hands(app.view.size, classes, kinds);
    if (all.length === 1) return all[0].tokens;
    app.panel.say(all.length ? "Point at a hand first, or touch it." : "No hand is painted yet.");
    return null;
  }

  flip() {
    const tokens = this.#tokens(), { app } = this;
    if (!tokens) return;
    const classes = app.state.classes.slice(), kinds = app.state.kinds.slice();
    for (const token of tokens) {
      classes[token] = classes[token] === GOOD ? BAD : GOOD;
      kinds[token] = 0;
    }
    const [first] = tokens, word = classes[first] === GOOD ? "good" : "bad";
    app.change({ classes, kinds: oneKindAHand(app.view.size, classes, kinds), verdict: verdictOf(classes, app.state.verdict) });
    app.panel.say(`This hand is ${word} now. Z takes it back.`);
  }

  /** Marks a bad hand local or global; the same key again takes the mark away. */
  mark(kind) {
    const tokens = this.#tokens(), { app } = this;
    if (!tokens) return;
    const { classes, kinds } = app.state, [first] = tokens, marked = kinds.slice();
    if (classes[first] !== BAD) return app.panel.say("Only a bad hand has a kind of error.");
    for (const token of tokens) marked[token] = kinds[first] === kind ? 0 : kind;
    app.change({ kinds: marked });
  }

  clear() {
    const { app } = this;
    if (!app.item || !app.ready) return;
    const empty = new Uint8Array(app.state.classes.length);
    app.change({ classes: empty, kinds: empty.slice(), accepted: false });
    app.panel.say("The mask is cleared. Z brings it back.");
  }

  restIsNotHand() {
    const { app } = this;
    if (!app.item || !app.ready) return;
    app.change({ classes: app.state.classes.map((value) => (value === UNLABELLED ? NOT_HAND : value)) });
    app.panel.say("The rest is not hand. Z takes it back.");
  }
}
