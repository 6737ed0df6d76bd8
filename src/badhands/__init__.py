"""badhands: make visible, measurable and useful what a diffusion transformer knows about the hands it draws."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from badhands.home import __version__ as __version__

if TYPE_CHECKING:
    from badhands.cells import Cell
    from badhands.diffusion.capture import capture
    from badhands.probes.artifact import Probes
    from badhands.watch.callbacks import BadHandCallback
    from badhands.watch.policies import Abort, Steer
    from badhands.watch.watcher import watch

__all__ = ["Abort", "BadHandCallback", "Cell", "Probes", "Steer", "capture", "watch"]

_HOMES = {
    "Abort": "badhands.watch.policies",
    "BadHandCallback": "badhands.watch.callbacks",
    "Cell": "badhands.cells",
    "Probes": "badhands.probes.artifact",
    "Steer": "badhands.watch.policies",
    "capture": "badhands.diffusion.capture",
}


def __getattr__(name: str) -> Any:
    """The public names, imported when first used: a command's `--help` need not wait for torch."""
    if name == "watch":
        return import_module("badhands.watch")  # callable: see there
    if name not in _HOMES:
        raise AttributeError(f"module 'badhands' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
