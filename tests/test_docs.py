"""The site of docs/: every page is in its reading order, and it builds without a warning."""

import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from badhands import ROOT

DOCS = ROOT / "docs"


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
