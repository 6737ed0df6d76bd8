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

_PACKAGE = Path(__file__).resolve().parent
_CHECKOUT = _PACKAGE.parents[1]

INSTALLED = not (_CHECKOUT / "conf" / "train.yaml").is_file()
"""Whether badhands came from a wheel, not from a checkout."""

ROOT = _PACKAGE if INSTALLED else _CHECKOUT
"""Where `conf/`, `extract.py` and `train.py` lie: the checkout; in a wheel, the package's own folder."""

CONF_DIR = ROOT / "conf"
"""Hydra's configuration folder, shared by every entry point."""

OUTPUTS = Path(os.environ.get("BADHANDS_OUTPUTS", Path.cwd() / "outputs" if INSTALLED else ROOT / "outputs"))
"""Studies and runs: in the checkout, or where the user stands. `BADHANDS_OUTPUTS` moves it to a larger disk."""


def shipped(path: str | Path) -> Path:
    """A file of the checkout by its path there (`conf/...`, `src/badhands/...`), wherever badhands is installed."""
    path = Path(path)
    return _PACKAGE.parent / path.relative_to("src") if path.parts[:1] == ("src",) else ROOT / path


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
