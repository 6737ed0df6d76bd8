"""Prompts, each with its axes as fields: from a text, JSONL or CSV file."""

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from badhands.study.manifest import check_id

TEXT_FIELDS = ("prompt", "text", "caption")
HANDS = Path(__file__).parent / "hands_prompts.jsonl"
"""The project's own set of prompts that show hands; its axes: style, setting, scale, position, action, people."""


@dataclass(frozen=True)
class Prompt:
    """One text to draw. `axes` are its fields (style, scale ...), by which results can be split."""

    id: str
    text: str
    axes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_id(self.id)
        if not self.text.strip():
            raise ValueError(f"prompt {self.id!r} is empty")


def load_prompts(path: Path | str) -> list[Prompt]:
    """Read prompts: `.jsonl` and `.csv` with a field `prompt` (and optionally `id`, the rest are axes); else text,
    one prompt a line, empty lines and lines that start with # left out.

    Without an id, a prompt is named by a hash of its text, so adding a line renames nothing.

    Raises:
        ValueError: no such file, no prompts, a line without a prompt, two prompts with one id; the line is named.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"prompts.file={path}: there is no such file")
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text: save it as UTF-8") from None
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        rows = _json_rows(path, content)
    elif suffix == ".csv":
        rows = _csv_rows(path, content)
    else:
        lines = enumerate(content.splitlines(), 1)
        rows = [(n, {"prompt": line}) for n, line in lines if line.strip() and not line.lstrip().startswith("#")]
    return check_prompts(((f"{path}, line {n}", _prompt(path, n, row)) for n, row in rows), source=str(path))


def check_prompts(named: Iterable[tuple[str, Prompt]], source: str) -> list[Prompt]:
    """The prompts of (place, prompt) pairs.

    Raises:
        ValueError: there are none, or two have one id; both places are named.
    """
    seen: dict[str, tuple[str, Prompt]] = {}
    for place, prompt in named:
        if prompt.id in seen:
            other, first = seen[prompt.id]
            what = "the same prompt" if first.text == prompt.text else f"the prompt id {prompt.id!r}"
            raise ValueError(f"{place} and {other} have {what}: change or remove one")
        seen[prompt.id] = (place, prompt)
    if not seen:
        raise ValueError(f"{source} holds no prompts")
    return [prompt for _, prompt in seen.values()]


def _json_rows(path: Path, content: str) -> list[tuple[int, Mapping[str, Any]]]:
    rows = []
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise ValueError(f'{path}, line {number}: not a JSON object; write {{"prompt": "..."}}')
            rows.append((number, row))
    return rows


def _csv_rows(path: Path, content: str) -> list[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(content.splitlines(keepends=True))
    rows = []
    for row in reader:
        if None in row:
            raise ValueError(f"{path}, line {reader.line_num}: more cells than the header has; quote commas")
        rows.append((reader.line_num, {key: value for key, value in row.items() if value}))
    return rows


def _prompt(path: Path, number: int, row: Mapping[str, Any]) -> Prompt:
    row = dict(row)
    key = next((name for name in TEXT_FIELDS if name in row), None)
    if key is None or not isinstance(row[key], str) or not row[key].strip():
        raise ValueError(f"{path}, line {number}: the field 'prompt' is missing or empty")
    text = " ".join(row.pop(key).split())
    name = row.pop("id", None) or "p" + hashlib.sha256(text.encode()).hexdigest()[:10]
    axes = row.pop("axes", {})
    axes = {**(axes if isinstance(axes, dict) else {"axes": axes}), **row}
    try:
        return Prompt(str(name), text, {str(k): str(v) for k, v in axes.items() if v is not None})
    except ValueError as error:
        raise ValueError(f"{path}, line {number}: {error}") from None
