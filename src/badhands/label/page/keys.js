// Every key, in one table: what it does and what the help says about it. A key that is held down acts once, unless it is
// marked `held`: it must not label image after image unseen.

const arrow = (app, dr, dc) => (event) => {
  if (event.ctrlKey || event.metaKey) app.view.panBy(-dc * 80, -dr * 80);
  else if (app.mode === "paint") app.painter.moveCursor(dr, dc, event.shiftKey);
  else app.go(dc || dr);
};

export function keyTable(app) {
  const paint = "paint", triage = "triage";
  return [
    { group: "Triage", mode: triage, keys: ["1"], text: "All hands are good", run: () => app.triage("good") },
    { group: "Triage", mode: triage, keys: ["2"], text: "Some hand is bad", run: () => app.triage("bad") },
    { group: "Triage", mode: triage, keys: ["3"], text: "No hand", run: () => app.triage("no_hand") },
    { group: "Triage", mode: triage, keys: ["0", "4"], text: "Skip", run: () => app.triage("skip") },
    { group: "Triage", mode: triage, keys: ["ArrowLeft", "ArrowRight"], text: "Back to the image before, or on", run: null },

    { group: "Paint", mode: paint, keys: ["1"], text: "Good hand", run: () => app.choose(1) },
    { group: "Paint", mode: paint, keys: ["2"], text: "Bad hand", run: () => app.choose(2) },
    { group: "Paint", mode: paint, keys: ["3"], text: "Not a hand", run: () => app.choose(3) },
    { group: "Paint", mode: paint, keys: ["0"], text: "Erase (also the right mouse button)", run: () => app.choose(0) },
    { group: "Paint", mode: paint, keys: ["b"], text: "Brush", run: () => app.useTool("brush") },
    { group: "Paint", mode: paint, keys: ["[", "]"], text: "Smaller, larger brush", held: true, run: (event) => app.resizeBrush(event.key === "]" ? 1 : -1) },
    { group: "Paint", mode: paint, keys: ["r"], text: "Rectangle", run: () => app.useTool("rectangle") },
    { group: "Paint", mode: paint, keys: ["a"], text: "Lasso", run: () => app.useTool("lasso") },
    { group: "Paint", mode: paint, keys: ["f"], text: "Fill", run: () => app.useTool("fill") },
    { group: "Paint", mode: paint, keys: ["v"], text: "Pan (also the middle button, or Ctrl and drag)", run: () => app.useTool("pan") },
    { group: "Paint", mode: paint, keys: ["p"], text: "Accept the proposal", run: () => app.proposals.accept() },
    { group: "Paint", mode: paint, keys: ["q"], text: "Accept the proposal and go on", run: () => app.proposals.acceptAndGo() },
    { group: "Paint", mode: paint, keys: ["n"], text: "Everything still unlabelled is not a hand", run: () => app.hand.restIsNotHand() },
    { group: "Paint", mode: paint, keys: ["Delete"], text: "Clear the mask (undo brings it back)", run: () => app.hand.clear() },

    { group: "The hand under the pointer or cursor", mode: paint, keys: ["x"], text: "Flip good and bad", run: () => app.hand.flip() },
    { group: "The hand under the pointer or cursor", mode: paint, keys: ["l"], text: "Local error: a finger or so", run: () => app.hand.mark(1) },
    { group: "The hand under the pointer or cursor", mode: paint, keys: ["g"], text: "Global error: the whole hand", run: () => app.hand.mark(2) },

    { group: "Without a mouse", mode: paint, keys: ["arrows"], text: "Move the token cursor; with Shift, paint on the way", run: null },
    { group: "Without a mouse", mode: paint, keys: ["Space"], text: "Paint, fill, or set a corner of the rectangle or lasso", run: () => app.painter.useCursor() },
    { group: "Without a mouse", mode: paint, keys: ["Escape"], text: "Give up what is half drawn", run: () => app.painter.cancel() },
    { group: "Without a mouse", mode: paint, keys: ["Enter"], text: "Close the lasso; else to the next image", run: () => app.painter.closeLasso() || app.go(1) },

    { group: "Everywhere", keys: ["z", "Ctrl+z"], text: "Undo, without limit", run: () => app.undo() },
    { group: "Everywhere", keys: ["Shift+z", "Ctrl+y", "Ctrl+Shift+z", "y"], text: "Redo", run: () => app.redo() },
    { group: "Everywhere", keys: ["PageDown", "."], text: "Next image", held: true, run: () => app.go(1) },
    { group: "Everywhere", keys: ["PageUp", ","], text: "Back to where you were before", held: true, run: () => app.go(-1) },
    { group: "Everywhere", keys: ["s"], text: "Switch between triage and painting", run: () => app.setMode(app.mode === paint ? triage : paint) },
    { group: "Everywhere", keys: ["j"], text: "Jump to an image", run: () => app.openJump() },
    { group: "Everywhere", keys: ["t"], text: "Write a note", run: () => app.focusNote() },
    { group: "Everywhere", keys: ["i"], text: "Show or hide the list of images", run: () => app.toggleList() },
    { group: "View", keys: ["+", "=", "-"], text: "Zoom (also the wheel, or two fingers)", held: true, run: (event) => app.view.zoomBy(event.key === "-" ? 0.8 : 1.25) },
    { group: "View", keys: ["Home"], text: "Fit the image", run: () => app.view.fit() },
    { group: "View", keys: ["Ctrl+arrows"], text: "Pan (also Shift and the wheel)", run: null },
    { group: "View", keys: ["h"], text: "Hold it down: look under the mask", run: () => app.peek(true) },
    { group: "View", keys: ["m"], text: "Token grid on or off", run: () => app.toggleGrid() },
    { group: "View", keys: ["o"], text: "Strength of the colours: 45, 80, 0, 20 %", run: () => app.cycleOpacity() },
    { group: "View", keys: ["d"], text: "Dark, light, or as the system", run: () => app.cycleTheme() },
    { group: "View", keys: ["?"], text: "This help", run: () => app.openHelp() },
  ];
}

const NAMES = { ArrowLeft: "←", ArrowRight: "→", Escape: "Esc", Delete: "Del" };

function keyCap(key) {
  const parts = key === "+" ? ["+"] : key.split("+").map((part) => NAMES[part] ?? (part.length === 1 ? part.toUpperCase() : part));
  return Object.assign(document.createElement("kbd"), { textContent: parts.join(" ") });
}

/** The name that the table uses for a key press. Shift is named for letters only: it is part of signs like ?. */
export function nameOf(event) {
  const key = event.key === " " ? "Space" : event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const shift = event.shiftKey && /^[a-z]$/.test(key) ? "Shift+" : "";
  return (event.ctrlKey || event.metaKey ? "Ctrl+" : "") + shift + key;
}

export function listen(app) {
  const table = keyTable(app);
  const arrows = { ArrowUp: arrow(app, -1, 0), ArrowDown: arrow(app, 1, 0), ArrowLeft: arrow(app, 0, -1), ArrowRight: arrow(app, 0, 1) };
  addEventListener("keydown", (event) => {
    if (event.altKey || event.isComposing || document.querySelector("dialog[open]")) return;
    const at = event.target, name = nameOf(event);
    if (at.matches?.("textarea, select, input:not([type=range], [type=checkbox])")) {
      if (name === "Escape") app.view.mask.canvas.focus();
      return;
    }
    if (at.matches?.("button, a, summary, [type=checkbox]") && (name === "Space" || name === "Enter")) return;
    if (at.matches?.("[type=range]") && /^(Arrow|Page|Home|End)/.test(event.key)) return;
    const arrow = arrows[event.key];
    const row = arrow ? { run: arrow, held: true } : table.find((one) => one.run && one.keys.includes(name) && (!one.mode || one.mode === app.mode));
    if (!row) return;
    event.preventDefault();
    if (!event.repeat || row.held) row.run(event);
  });
  addEventListener("keyup", (event) => nameOf(event).endsWith("h") && app.peek(false));
  addEventListener("blur", () => app.peek(false));
}

/** The help: a list of keys a group, made from the same table. */
export function helpInto(root, app) {
  const groups = new Map();
  for (const row of keyTable(app)) groups.set(row.group, [...(groups.get(row.group) ?? []), row]);
  root.replaceChildren(...[...groups].map(([title, rows]) => {
    const section = document.createElement("section");
    const heading = Object.assign(document.createElement("h3"), { textContent: title });
    const list = document.createElement("dl");
    for (const { keys, text } of rows) {
      const term = document.createElement("dt");
      term.append(...keys.filter((key) => key !== "=").slice(0, 2).map(keyCap));
      list.append(term, Object.assign(document.createElement("dd"), { textContent: text }));
    }
    section.append(heading, list);
    return section;
  }));
}
