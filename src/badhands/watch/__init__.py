"""The probe's verdict on every patch at every step, while the image is being made; stop it, or steer it.

with watch(pipe, Probes.load("outputs/runs/.../probes")) as seen:
    image = pipe("a hand", ...).images[0]
seen.save("watched")
"""

from badhands.watch.policies import Abort, Steer
from badhands.watch.watcher import Frame, Seen, watch

__all__ = ["Abort", "Frame", "Seen", "Steer", "watch"]
