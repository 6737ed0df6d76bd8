"""The notebook: committed as executed, small, and its code still runs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from badhands.home import ROOT

PATH = ROOT / "notebooks" / "does_it_know.ipynb"


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(PATH, as_version=4)


def outputs(notebook, kind):
    return [o for cell in notebook.cells for o in cell.get("outputs", []) if o.output_type == kind]


def test_it_is_committed_as_executed_without_errors_and_small(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not outputs(notebook, "error")
    assert all(stream.name == "stdout" for stream in outputs(notebook, "stream"))
    pictures = [o for o in outputs(notebook, "display_data") if "image/png" in o.data]
    assert len(pictures) >= 4 and PATH.stat().st_size < 1_000_000
    assert str(Path.home()) not in PATH.read_text() and str(ROOT) not in PATH.read_text()


def test_its_code_runs_from_top_to_bottom(monkeypatch, tmp_path):
    """On few pictures and shuffles: whether it still runs, not what comes out."""
    monkeypatch.setenv("NOTEBOOK_IMAGES", "16")
    monkeypatch.setenv("NOTEBOOK_SHUFFLES", "5")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    fresh = nbformat.read(PATH, as_version=4)
    NotebookClient(fresh, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    told = "".join(stream.text for stream in outputs(fresh, "stream") if stream.name == "stdout")
    assert "best cell" in told and "pictures:" in told
    assert len([o for o in outputs(fresh, "display_data") if "image/png" in o.data]) == 4
