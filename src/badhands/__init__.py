"""badhands: make visible, measurable and useful what a diffusion transformer knows about the hands it draws."""

import os
from pathlib import Path

__version__ = "0.1.0"

ROOT = Path(__file__).resolve().parents[2]
"""The checkout: `conf/`, `outputs/` and the entry points lie here (badhands is installed editable)."""

CONF_DIR = ROOT / "conf"
"""Hydra's configuration folder, shared by every entry point."""

OUTPUTS = Path(os.environ.get("BADHANDS_OUTPUTS", ROOT / "outputs"))
"""Studies and runs; `BADHANDS_OUTPUTS` moves it to a larger disk."""
