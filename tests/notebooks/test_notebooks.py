"""The notebooks run from top to bottom, and what stands in the repository shows the pictures of such a run."""

from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
LONGEST = 180
"""Seconds after which a cell is taken to hang."""


def _pictures(notebook: Any) -> list[int]:
    """How many PNGs each cell shows."""
    return [sum("image/png" in output.get("data", {}) for output in cell.get("outputs", [])) for cell in notebook.cells]


@pytest.mark.filterwarnings("ignore")  # of Jupyter's own libraries
@pytest.mark.parametrize(("name", "pictures"), [("grpo_tcr", 6), pytest.param("feedback", 2, marks=pytest.mark.slow)])
def test_a_notebook_runs_and_its_saved_outputs_are_those_of_a_run(name: str, pictures: int) -> None:
    saved = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    ran = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    for cell in ran.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    where = {"metadata": {"path": str(NOTEBOOKS)}}
    nbclient.NotebookClient(ran, timeout=LONGEST, kernel_name="python3", resources=where).execute()
    assert _pictures(saved) == _pictures(ran)
    assert sum(_pictures(saved)) >= pictures
    assert [cell.get("execution_count") for cell in saved.cells] == [cell.get("execution_count") for cell in ran.cells]
    for cell in saved.cells:
        for output in cell.get("outputs", []):
            assert output.output_type != "error"
            assert output.get("name") != "stderr"
