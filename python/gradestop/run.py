"""A run's directory as plain records."""

from __future__ import annotations

import html
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import _core

__all__ = ["Run", "load_run"]


@dataclass
class Run:
    """What a run left: of the program ``grades``, or of `gradestop.GradES.save_run`. In a notebook it shows its figures."""

    path: Path
    #: ``config.yaml`` as it is written.
    config: str = ""
    #: Machine, program and sizes.
    environment: dict[str, Any] = field(default_factory=dict)
    #: What can freeze, with thresholds.
    units: dict[str, Any] = field(default_factory=dict)
    #: One record a step: ``loss``, ``learning_rate``, ``seconds``, ``frozen_units``, …
    steps: list[dict[str, Any]] = field(default_factory=list)
    #: One record a measured step: ``{"step": 3, "signals": {"language.3.q": 0.7, …}}``.
    signals: list[dict[str, Any]] = field(default_factory=list)
    #: What happened: ``{"event": "freeze", "step": 7, "unit": "language.3.q"}``, …
    events: list[dict[str, Any]] = field(default_factory=list)
    #: What the run came to; ``None`` while it goes on.
    summary: dict[str, Any] | None = None

    @property
    def frozen_at(self) -> dict[str, int]:
        """The step at which each frozen matrix froze."""
        frozen: dict[str, int] = {}
        for event in self.events:
            if event.get("event") == "freeze":
                frozen[event["unit"]] = event["step"]
            elif event.get("event") == "unfreeze":
                frozen.pop(event["unit"], None)
        return frozen

    def report(self, path: str | os.PathLike[str]) -> None:
        """Writes the report as one HTML file. Only an older report is replaced."""
        _core.report([self.path], Path(path))

    def __repr__(self) -> str:
        ended = "" if self.summary is None else f", stopped by {self.summary.get('stopped_by') or 'nothing'}"
        return f"Run({str(self.path)!r}: {len(self.steps)} steps, {len(self.frozen_at)} matrices frozen{ended})"

    def _repr_html_(self) -> str:
        shown = ("steps", "planned_steps", "stopped_by", "frozen_units", "units", "train_loss", "val_loss", "seconds", "monitor_seconds")
        summary = self.summary or {}
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(key)}</th><td>{html.escape(_short(summary[key]))}</td></tr>"
            for key in shown
            if summary.get(key) is not None
        )
        figures = "".join(f"<h4>{html.escape(title)}</h4>{svg}" for title, svg in _core.figures(self.path))
        return f"<h3>{html.escape(str(self.path))}</h3><table>{rows}</table><details open><summary>Figures</summary>{figures}</details>"


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def load_run(path: str | os.PathLike[str]) -> Run:
    """Reads a run's directory.

    Raises:
        FileNotFoundError: if there is no run.
        ValueError: if a line is damaged; the message names it. The last line of a file may be incomplete, as while a run goes on.
    """
    folder = Path(path)
    if not (folder / "metrics.jsonl").is_file():
        raise FileNotFoundError(f"{folder} holds no run: there is no metrics.jsonl in it")
    return Run(
        path=folder,
        config=_text(folder / "config.yaml"),
        environment=_object(folder / "environment.json") or {},
        units=_object(folder / "units.json") or {},
        steps=_lines(folder / "metrics.jsonl"),
        signals=_lines(folder / "signals.jsonl"),
        events=_lines(folder / "events.jsonl"),
        summary=_object(folder / "summary.json"),
    )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _object(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def _lines(path: Path) -> list[dict[str, Any]]:
    lines = _text(path).split("\n")
    records = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise ValueError(f"line {number} of {path} is damaged: {error}") from None
    return records
