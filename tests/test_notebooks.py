"""Every notebook runs from top to bottom, in an empty folder and a fresh kernel, without an error or a warning.

``python -m tests.test_notebooks`` runs them in the same way and keeps what they show.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import nbclient
import nbformat
import pytest

FOLDER = Path(__file__).parent.parent / "analysis_notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
TIMEOUT = 300  # seconds for one cell


def execute(notebook: nbformat.NotebookNode, folder: Path) -> list[str]:
    """Run all cells in ``folder``; return the warnings that they printed."""
    environment = {
        key: value for key, value in os.environ.items() if key != "MPLBACKEND"
    }  # pictures inline, as for a reader
    environment |= {"IPYTHONDIR": str(folder / ".ipython"), "JUPYTER_CONFIG_DIR": str(folder / ".jupyter")}
    client = nbclient.NotebookClient(
        notebook,
        timeout=TIMEOUT,
        kernel_name="python3",
        record_timing=False,  # the same cells give the same file
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env=environment)
    printed = [
        output for cell in notebook.cells for output in cell.get("outputs", []) if output.get("name") == "stderr"
    ]
    return [output["text"] for output in printed if "Warning" in output["text"]]


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS, "analysis_notebooks/ holds no notebook"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    warnings = execute(notebook, tmp_path)
    assert not warnings, "\n".join(warnings)


def test_an_error_in_a_cell_is_seen(tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")])
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="ZeroDivisionError"):
        execute(notebook, tmp_path)


def test_a_warning_in_a_cell_is_seen(tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import warnings; warnings.warn('old')")])
    assert "UserWarning: old" in execute(notebook, tmp_path)[0]


def refresh(path: Path) -> None:
    """Run a notebook and write what its cells show into it."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        execute(notebook, Path(folder))
    nbformat.write(notebook, path)
    print(path.name)


if __name__ == "__main__":
    for each in NOTEBOOKS:
        refresh(each)
