"""What a method may be told: the keys of ``early_stopping`` in a config of the program ``grades``."""

from __future__ import annotations

import json
from typing import Any, Mapping

from . import _core

__all__ = ["GradESConfig"]


class GradESConfig:
    """The options of GradES, or of another method of stopping early.

    Args:
        tau: The threshold: ``"auto"`` (default), a number, a map such as ``{"vision": 0.3, "default": 6.0}`` by kind, role or
            pattern of names, or the name of a preset of the paper.
        method: ``"grades"``, ``"validation_loss"``, ``"autofreeze"``, ``"freezeout"``, ``"lisa"``, ``"layerwise_decay"``,
            ``"aflora"``, ``"loraf"``, ``"budget"`` or ``"none"``.
        options: Any other key that ``docs/config.md`` has under ``early_stopping``: ``signal``, ``norm``, ``alpha``, ``patience``,
            ``interval``, ``max_frozen_share``, ``companions``, ``split_fused``, ``trace``, ``auto`` of GradES.

    Raises:
        ValueError: with one sentence about the first key that cannot be used.
    """

    def __init__(self, tau: Any = None, *, method: str = "grades", **options: Any) -> None:
        given = {"method": method, "tau": tau, **options}
        given = {key: value for key, value in given.items() if value is not None}
        if method not in _core.methods():
            raise ValueError(f"`method: {method}` is not known: use one of {', '.join(_core.methods())}")
        #: Every option with its value.
        self.options: dict[str, Any] = json.loads(_core.resolve(json.dumps(given)))
        self._given = given

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> "GradESConfig":
        """From the keys of ``early_stopping``."""
        return cls(**options)

    @classmethod
    def from_yaml(cls, path: str) -> "GradESConfig":
        """From the section ``early_stopping`` of a config file of the program ``grades``."""
        import yaml

        with open(path, encoding="utf-8") as file:
            section = (yaml.safe_load(file) or {}).get("early_stopping", {})
        return cls(method=section) if isinstance(section, str) else cls(**section)

    @property
    def weighs(self) -> bool:
        """Whether single matrices are chosen by the gains of updates, which AdamW alone tells."""
        if self.method == "budget":
            return bool(self.options.get("freeze") or self.options.get("memory"))
        return self.options.get("auto", {}).get("freeze") == "gain"

    @property
    def method(self) -> str:
        """The method's name."""
        return self.options["method"]

    @property
    def split_fused(self) -> bool:
        """Whether the roles inside a fused projection are matrices of their own."""
        return bool(self.options.get("split_fused", True))

    def to_json(self) -> str:
        """As the method reads it: what was given, so that what the run tells fills in the rest."""
        return json.dumps(self._given)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GradESConfig) and self.options == other.options

    def __repr__(self) -> str:
        given = ", ".join(f"{key}={value!r}" for key, value in self._given.items())
        return f"GradESConfig({given})"
