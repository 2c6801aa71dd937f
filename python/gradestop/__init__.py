"""GradES for training loops in PyTorch: each weight matrix stops when its gradient has stopped changing.

- `gradestop.GradES` in a loop of your own, also through Accelerate.
- `gradestop.GradESCallback` with transformers' ``Trainer`` and whatever builds on it.
- `gradestop.train`, `gradestop.evaluate`, `gradestop.load_run`: the program ``grades`` from Python.

What decides is the same code as that of the program, in ``gradestop._core``. PyTorch and transformers are imported when something
of them is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._core import __version__, methods
from .config import GradESConfig
from .run import Run, load_run
from .tool import ToolError, evaluate, train

if TYPE_CHECKING:
    from .loop import GradES
    from .transformers import GradESCallback
    from .units import Unit, find_units

__all__ = [
    "GradES", "GradESCallback", "GradESConfig", "Run", "ToolError", "Unit", "__version__", "evaluate", "find_units", "load_run",
    "methods", "train",
]

_LATER = {"GradES": "loop", "GradESCallback": "transformers", "Unit": "units", "find_units": "units"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_LATER[name]}", __name__), name)
