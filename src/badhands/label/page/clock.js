// Time spent on the image on screen. Pauses count for at most IDLE seconds; a hidden page not at all.

const IDLE = 20_000;

export class Clock {
  #last = performance.now();
  #spent = 0;

  constructor() {
    for (const name of ["pointermove", "pointerdown", "keydown", "wheel"]) addEventListener(name, () => this.#tick(), { passive: true });
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) this.#tick();
      else this.#last = performance.now();
    });
  }

  #tick() {
    const now = performance.now();
    this.#spent += Math.min(now - this.#last, IDLE);
    this.#last = now;
  }

  /** Seconds since the last call: to be added to the image on screen. */
  take() {
    this.#tick();
    const seconds = this.#spent / 1000;
    this.#spent = 0;
    return seconds;
  }
}
