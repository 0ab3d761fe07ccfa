"""Every notebook runs from top to bottom."""

import nbformat
import pytest
from nbclient import NotebookClient

from conftest import ROOT

# What is set in the cell of parameters: less work of the same kind.
SMALL = ["size=demo", "data.shards={shards}", "trainer.max_epochs=1", "data.num_workers=0"]
LESS = {"02_train_and_look": f"settings += {SMALL}"}


# ipykernel and its message queue leave sockets to the garbage collector; what the notebook does is not affected.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebook(path, charades_shards, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("NLNET_LOG_DIR", str(tmp_path / "logs"))
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", ()) and path.stem in LESS:
            cell.source += "\n" + LESS[path.stem].format(shards=charades_shards)
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
