"""What a run records, in the layout that the program ``grades`` writes and its report reads."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

from . import _core

__all__ = ["Record"]


class Record:
    """The steps, signals and events of a run, as lines of its files."""

    def __init__(self, policy: Any, units: list[str], total_steps: int, config: Any) -> None:
        self._policy, self._units, self._total, self._config = policy, units, total_steps, config
        #: ``metrics.jsonl``.
        self.steps: list[dict[str, Any]] = []
        #: ``signals.jsonl``: (step, unit → signal).
        self.signals: list[tuple[int, dict[str, float]]] = []
        #: ``events.jsonl``.
        self.events: list[dict[str, Any]] = []
        self._before = 0.0

    def decision(self, decision: Any) -> None:
        """Takes what was decided."""
        self.events.extend(json.loads(event) for event in decision.events)
        if decision.signals:
            self.signals.append((decision.step, dict(decision.signals)))

    def step(
        self, step: int, rate: float, norm: float | None, seconds: float, monitor: float, frozen: int, kept: int
    ) -> None:
        """Takes what is known of a step of the optimizer."""
        seconds += self._before
        last = self.steps[-1]["seconds"] if self.steps else self._before
        self.steps.append(
            dict(
                step=step, loss=None, learning_rate=rate, gradient_norm=norm, tokens=0, seconds=seconds,
                step_seconds=seconds - last, monitor_seconds=monitor, frozen_units=frozen, kept_bytes=kept,
            )
        )

    def log(self, loss: float | None = None, tokens: int | None = None, val_loss: float | None = None) -> None:
        """Adds to the last step what the loop says of it."""
        if self.steps:
            for key, value in (("loss", loss), ("tokens", tokens), ("val_loss", val_loss)):
                if value is not None:
                    self.steps[-1][key] = value

    def state(self) -> str:
        """What `load` reads."""
        return json.dumps([self.steps, self.signals, self.events])

    def load(self, state: str) -> None:
        """Goes on from `state`."""
        steps, signals, events = json.loads(state)
        self.steps, self.events = steps, events
        self.signals = [(step, values) for step, values in signals]
        self._before = steps[-1]["seconds"] if steps else 0.0

    def save(self, path: str | os.PathLike[str], run: Any) -> None:
        """Writes the run directory. What is there is not overwritten."""
        folder = Path(path)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise FileExistsError(f"{folder} is not empty; give a new folder for the run")
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Whole or not at all.
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
            new = Path(temporary) / folder.name
            new.mkdir()
            for name, text in self._files(run).items():
                (new / name).write_text(text, encoding="utf-8")
            if folder.exists():
                folder.rmdir()
            new.rename(folder)

    def report(self, path: str | os.PathLike[str], run: Any) -> None:
        """Writes the report as one HTML file."""
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / (Path(path).stem or "run")
            self.save(folder, run)
            _core.report([folder], Path(path))

    def _files(self, run: Any) -> dict[str, str]:
        lines = lambda all_of: "".join(json.dumps(each) + "\n" for each in all_of)  # noqa: E731
        signal, norm, freezes = self._policy.signal or (None, None, None)
        units = [dict(unit=unit, threshold=self._policy.threshold(unit)) for unit in self._units]
        model = run.model
        summary = dict(
            run_dir="", model_dir="", steps=run.step, planned_steps=self._total, stopped_by=run.stopped_by,
            seconds=self.steps[-1]["seconds"] if self.steps else 0.0, monitor_seconds=sum(s["monitor_seconds"] for s in self.steps),
            units=len(self._units), frozen_units=len(run.frozen), train_loss=_mean([s["loss"] for s in self.steps]),
            val_loss=next((s["val_loss"] for s in reversed(self.steps) if s.get("val_loss") is not None), None),
            monitor_bytes=max((s["kept_bytes"] for s in self.steps), default=0),
        )
        import torch

        environment = dict(
            version=_core.__version__, commit=None, operating_system=platform.system().lower(), architecture=platform.machine(),
            processor=None, threads=torch.get_num_threads(), units=len(self._units), planned_steps=self._total,
            parameters=sum(p.numel() for p in model.parameters()), torch=torch.__version__, python=platform.python_version(),
        )
        return {
            "config.yaml": f"early_stopping: {json.dumps(json.loads(self._policy.options))}\n",
            "environment.json": json.dumps(environment, indent=2) + "\n",
            "units.json": json.dumps(dict(method=self._policy.name, signal=signal, norm=norm, freezes=freezes, units=units)) + "\n",
            "metrics.jsonl": lines(self.steps),
            "signals.jsonl": lines(dict(step=step, signals=signals) for step, signals in self.signals),
            "events.jsonl": lines(self.events),
            "summary.json": json.dumps(summary, indent=2) + "\n",
        }


def _mean(losses: list[float | None]) -> float:
    known = [loss for loss in losses if loss is not None]
    return sum(known) / len(known) if known else 0.0
