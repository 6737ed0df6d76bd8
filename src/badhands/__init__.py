"""badhands: make visible, measurable and useful what a diffusion transformer knows about the hands it draws."""

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from badhands.cells import Cell
    from badhands.diffusion.capture import capture
    from badhands.probes.artifact import Probes
    from badhands.watch.policies import Abort, Steer
    from badhands.watch.watcher import watch

__version__ = "0.1.0"

ROOT = Path(__file__).resolve().parents[2]
"""The checkout: `conf/`, `outputs/` and the entry points lie here (badhands is installed editable)."""

CONF_DIR = ROOT / "conf"
"""Hydra's configuration folder, shared by every entry point."""

OUTPUTS = Path(os.environ.get("BADHANDS_OUTPUTS", ROOT / "outputs"))
"""Studies and runs; `BADHANDS_OUTPUTS` moves it to a larger disk."""

__all__ = ["Abort", "Cell", "Probes", "Steer", "capture", "watch"]

_HOMES = {
    "Abort": "badhands.watch.policies",
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
