"""The probe's verdict on every patch at every step, while the image is being made; stop it, or steer it.

with watch(pipe, Probes.load("outputs/runs/.../probes")) as seen:
    image = pipe("a hand", ...).images[0]
seen.save("watched")
"""

import sys
from types import ModuleType
from typing import Any

from badhands.watch.frame import Frame
from badhands.watch.policies import Abort, Best, Steer
from badhands.watch.seen import Seen
from badhands.watch.watcher import watch

__all__ = ["Abort", "Best", "Frame", "Seen", "Steer", "watch"]


class _CallablePackage(ModuleType):
    """`badhands.watch` names this package and, for `from badhands import watch`, its main function."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return watch(*args, **kwargs)


sys.modules[__name__].__class__ = _CallablePackage
