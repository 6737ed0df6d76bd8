// Jump to an image, and the question what shall stand when two tabs changed the same one.

import { counts } from "./mask.js";
import { COLOURS } from "./view.js";

const $ = (selector) => document.querySelector(selector);

export function jumpDialog(app) {
  const dialog = $("#jump"), input = dialog.querySelector("input"), list = dialog.querySelector("datalist");
  if (!list.childElementCount) list.append(...app.study.order.map((id) => new Option(app.study.images.get(id).prompt, id)));
  const error = dialog.querySelector(".error");
  input.value = error.textContent = "";
  dialog.querySelector(".cancel").onclick = () => dialog.close();
  dialog.querySelector("form").onsubmit = (event) => {
    event.preventDefault();
    const text = input.value.trim();
    const found = app.study.images.has(text) ? [text] : app.study.order.filter((id) => id.includes(text));
    if (text && found.length === 1) {
      dialog.close();
      app.open({ id: found[0], repeat: 0 }, { focus: true });
    } else error.textContent = found.length && text ? `${found.length} ids contain “${text}”: write more of it.` : `No image is called “${text}”.`;
  };
  dialog.showModal();
}

/** Mine or theirs; the one not chosen stays within reach of undo. One question at a time. */
export function conflictDialog(app, { item, label }) {
  const dialog = $("#conflict");
  if (dialog.open) return dialog.addEventListener("close", () => conflictDialog(app, { item, label }), { once: true });
  const mine = app.study.state(item), theirs = app.study.stateOf(label), image = app.study.images.get(item.id);
  dialog.querySelector(".which").textContent = `${item.id}${item.repeat ? " (repeat)" : ""}`;
  describe(dialog.querySelector(".mine"), image, mine, "not saved yet");
  describe(dialog.querySelector(".theirs"), image, theirs, `saved ${label.time ? new Date(label.time).toLocaleTimeString() : "elsewhere"}`);
  dialog.addEventListener("cancel", (event) => event.preventDefault());
  dialog.onclose = () => {
    if (dialog.returnValue === "mine") {
      app.history.push(item, theirs);
      app.outbox.overwrite(item, label.revision);
    } else {
      app.outbox.drop(item);
      app.takeTheirs(item, label);
    }
  };
  dialog.showModal();
}

function describe(root, { h, w, width, height }, state, when) {
  const canvas = root.querySelector("canvas"), context = canvas.getContext("2d"), pixels = new ImageData(w, h);
  Object.assign(canvas, { width: w, height: h });
  canvas.style.aspectRatio = `${width} / ${height}`;
  state.classes.forEach((value, token) => pixels.data.set([...(COLOURS[value] ?? [0, 0, 0]), COLOURS[value] ? 255 : 0], token * 4));
  context.putImageData(pixels, 0, 0);
  const [, good, bad, none] = counts(state.classes);
  root.querySelector("p").textContent = `${when}; verdict ${state.verdict ?? "none"}; ${good} good, ${bad} bad, ${none} not-hand tokens${state.note ? `; note “${state.note.slice(0, 80)}”` : ""}`;
}

