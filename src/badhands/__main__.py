"""`badhands COMMAND ...`: the project's commands under one name, for those who installed it without the checkout."""

import runpy
import sys
from collections.abc import Sequence

from badhands.home import ROOT, __version__

FILES = {"extract": "images, labels and activations of a study", "train": "measures, probes and a report"}
"""Commands that are a file beside `conf/`; the checkout runs them as `python extract.py`, `python train.py`."""

MODULES = {
    "label": "the labelling page",
    "watch": "the probes' verdict while an image is being made",
    "experiments": "does knowing help? abort, best of N, steering: what costs how much",
    "report": "a run's report, written again",
    "report.compare": "runs side by side",
    "rehearse": "a study's cost on a model of random weights",
    "publish": "a labelled study as a dataset, and back",
}
"""Commands that are a module, `python -m badhands.label`; the last part of its name is the command's."""


def usage() -> str:
    """One line a command."""
    lines = [f"  {name.rpartition('.')[2]:13}{what}" for name, what in {**FILES, **MODULES}.items()]
    return "\n".join(
        [
            f"badhands {__version__}: badhands COMMAND [option=value ...]",
            *lines,
            "`badhands COMMAND --help` shows a command's options; outputs/ is made where you stand.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command as if it had been called by itself.

    Raises:
        SystemExit: the command's own; 2 for a name that is none.
    """
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or [""]
    if name in ("", "-h", "--help", "--version"):
        print(f"badhands {__version__}" if name == "--version" else usage())
        return
    if name in FILES:
        path = str(ROOT / f"{name}.py")
        sys.argv = [path, *rest]
        runpy.run_path(path, run_name="__main__")
    elif name in (modules := {module.rpartition(".")[2]: module for module in MODULES}):
        sys.argv = [f"badhands {name}", *rest]
        runpy.run_module(f"badhands.{modules[name]}", run_name="__main__", alter_sys=True)
    else:
        print(f"badhands has no command {name!r}\n\n{usage()}", file=sys.stderr)
        raise SystemExit(2)


if __name__ == "__main__":
    main()
