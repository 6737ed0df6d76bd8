"""The embedded models: real FluxPipelines, small enough for a laptop, that draw hands and get some of them wrong."""

from pathlib import Path

CHECKPOINTS = Path(__file__).parent / "checkpoints"
"""Diffusers folders that ship with the project: `clean/`, `mixed/`; and the judge's weights."""
