"""What must not leave the machine with a probe or a study."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePath, PureWindowsPath
from typing import Any

PRIVATE = {
    "an e-mail address": re.compile(r"[\w.+-]+@[\w-]+\.[a-zA-Z]{2,}"),
    "an access token": re.compile(r"\b(?:hf_|sk-|ghp_|github_pat_|glpat-|wandb_)[A-Za-z0-9_-]{16,}"),
    "a path of this machine": re.compile(
        r"(?:^|[\s\"'=(])(?:~|/(?:home|root|Users|mnt|media|srv|data|tmp|work)\b|[A-Za-z]:\\)\S*"
    ),
    "an address with a password": re.compile(r"\w+://[^\s/:]+:[^\s/@]+@"),
    "a telephone number": re.compile(r"(?<!\w)\+\d[\d ()/-]{7,}\d"),
}
"""What it is called -> how it looks. A name cannot be recognised: read your prompts before you publish them."""


def private_things(text: str) -> list[str]:
    """What stands in a text that should not be published, by name; empty where nothing was recognised."""
    return [name for name, pattern in PRIVATE.items() if pattern.search(text)]


def refuse_private(texts: Iterable[tuple[str, str]]) -> None:
    """Check texts before anything is written or sent.

    Args:
        texts: (where it stands, text).

    Raises:
        ValueError: the first texts that hold something private, and what.
    """
    found = [f"{where} holds {' and '.join(things)}" for where, text in texts if (things := private_things(text))]
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise ValueError(f"not published: {'; '.join(found[:3])}{more}: take it out first")


def without_paths(value: Any) -> Any:
    """The same JSON value with every absolute path cut to its last part: a folder's name says enough."""
    if isinstance(value, Mapping):
        return {str(key): without_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(item) for item in value]
    if isinstance(value, str) and (value.startswith(("/", "~")) or PureWindowsPath(value).drive):
        return (PureWindowsPath(value) if "\\" in value else PurePath(value)).name
    return value


def texts_of(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """Every string inside a JSON value with its place, for `refuse_private`."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from texts_of(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts_of(item, where)
    elif isinstance(value, str):
        yield where, value


def pseudonyms(annotators: Iterable[str], machines: Iterable[str]) -> dict[str, str]:
    """People's names -> annotator_1, annotator_2, ... in order of appearance; machines keep theirs."""
    kept, found = set(machines), {}
    for name in annotators:
        if name not in found:
            people = sum(other not in kept for other in found)
            found[name] = name if name in kept else f"annotator_{people + 1}"
    return found
