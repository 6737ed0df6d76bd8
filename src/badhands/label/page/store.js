// The browser's storage, which may be full or forbidden: then the page goes on without it, and says so.

/** Whether the value is kept. */
export function keep(name, value) {
  try {
    localStorage.setItem(name, value);
    return true;
  } catch {
    return false;
  }
}

export function recall(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

/** The parsed value; null where there is none, or where it is damaged. */
export function recallJson(name) {
  try {
    return JSON.parse(localStorage.getItem(name));
  } catch {
    return null;
  }
}

export function forget(name) {
  try {
    localStorage.removeItem(name);
  } catch { /* nothing was kept there */ }
}

export function names() {
  try {
    return Object.keys(localStorage);
  } catch {
    return [];
  }
}

/** A name that nobody else has. Pages from other machines come by plain http, where crypto.randomUUID does not exist. */
export function uniqueName() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
