"""The site of docs/: every page is in its reading order, it builds without a warning, and no line is too long."""

import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from badhands.home import ROOT

DOCS = ROOT / "docs"
LONGEST = 120


def pages_of(entry: Any) -> Iterator[str]:
    """Files that a navigation names, in order."""
    for part in entry if isinstance(entry, list) else [entry]:
        for value in part.values():
            if isinstance(value, str):
                yield value
            else:
                yield from pages_of(value)


def test_the_navigation_names_every_page_once():
    named = list(pages_of(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]))
    assert sorted(named) == sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))


def test_the_site_builds_without_a_warning_and_holds_the_public_face(tmp_path):
    shutil.copytree(DOCS, tmp_path / "docs")
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    (tmp_path / "src").symlink_to(ROOT / "src")
    command = [str(Path(sys.executable).parent / "zensical"), "build", "--strict", "--clean"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert done.returncode == 0 and "griffe" not in said and "arning" not in said, said
    api = (tmp_path / "site" / "api" / "index.html").read_text()
    for name in ("cells.Cell", "diffusion.capture.capture", "watch.watcher.watch", "watch.policies.Abort"):
        assert f'id="badhands.{name}"' in api, name
    assert 'id="badhands.probes.artifact.Probes"' in (tmp_path / "site" / "api" / "probes" / "index.html").read_text()


@pytest.mark.parametrize("page", sorted(str(p.relative_to(ROOT)) for p in [*DOCS.rglob("*.md"), ROOT / "README.md"]))
def test_no_line_of_prose_is_too_long(page):
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    long = [k for k, line in enumerate(lines, 1) if len(line) > LONGEST and not line.startswith("|")]
    assert not long, f"{page}: lines {long} are longer than {LONGEST}"
