"""The code of docs/python.md and of the notebook, run from top to bottom."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from gradestop import ToolError, tool

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

ROOT = Path(__file__).parents[2]


def run(pieces, tiny_llama, tokens, folder, monkeypatch):
    monkeypatch.chdir(folder)
    rows = tokens(32)
    dataset = [{"input_ids": row.tolist(), "labels": row.tolist()} for row in rows]
    names = dict(make_model=tiny_llama, rows=rows, dataset=dataset)
    for number, piece in enumerate(pieces):
        exec(compile(piece, f"piece {number}", "exec"), names)
    return names


def without_program(piece):
    """Whether a piece can run here: the program, and what it needs, may be missing."""
    try:
        tool.program()
    except ToolError:
        return "gradestop.train" not in piece
    return True


@pytest.mark.slow
def test_every_piece_of_the_page_runs(tiny_llama, tokens, tmp_path, monkeypatch, request):
    page = ROOT / "docs" / "python.md"
    if not page.is_file():
        pytest.skip("the repository's docs are not here")
    pieces = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert len(pieces) == 6
    pieces = [piece for piece in pieces if without_program(piece)]
    if any("gradestop.train" in piece for piece in pieces):
        quickstart = request.getfixturevalue("quickstart")
        text = (quickstart / "config.yaml").read_text(encoding="utf-8")
        (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
        (tmp_path / "data").symlink_to(quickstart / "data")
    names = run(pieces, tiny_llama, tokens, tmp_path, monkeypatch)
    assert names["callback"].stopper.frozen and (tmp_path / "report.html").is_file()


@pytest.mark.slow
def test_the_notebook_runs(tiny_llama, tokens, tmp_path, monkeypatch):
    path = ROOT / "examples" / "python.ipynb"
    if not path.is_file():
        pytest.skip("the repository's examples are not here")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    pieces = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    names = run([piece for piece in pieces if without_program(piece)], tiny_llama, tokens, tmp_path, monkeypatch)
    assert names["stopper"].frozen
