"""Paths as plain words on a command line that Hydra reads."""

import sys
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path


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
