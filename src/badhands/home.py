"""Where badhands stands, the checkout or a wheel; its configuration and outputs; how its commands are called."""

import os
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from itertools import takewhile
from pathlib import Path
from typing import Any

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


def command(config: str) -> Callable[[Callable[[Any], object]], Callable[[], None]]:
    """Makes a function of conf/<config>.yaml a command, which a ValueError ends in its one sentence."""
    import hydra

    os.environ.setdefault("BADHANDS_OUTPUTS", str(OUTPUTS))  # configurations keep logs where the studies are

    def decorated(function: Callable[[Any], object]) -> Callable[[], None]:
        @wraps(function)
        def main(cfg: Any) -> None:
            try:
                function(cfg)
            except ValueError as error:
                sys.exit(f"error: {error}")

        return hydra.main(config_path=str(CONF_DIR), config_name=config, version_base="1.3")(main)

    return decorated


def paths_as(option: str, many: bool = False, words: Sequence[str] | None = None) -> list[str]:
    """The command line, its leading paths as `option=...` and quoted: run folders have commas and equal signs in names.

    Args:
        many: `option` is a list.
        words: None is this process's command line.
    """
    words = list(sys.argv[1:] if words is None else words)
    paths = list(takewhile(lambda word: not word.startswith("-") and ("=" not in word or Path(word).exists()), words))
    if not paths:
        return words
    quoted = ["'" + path.replace("'", "\\'") + "'" for path in paths]
    value = "[" + ",".join(quoted) + "]" if many else quoted[0]
    rest = paths[1:] if not many else []
    return [f"{option}={value}", *rest, *words[len(paths) :]]
