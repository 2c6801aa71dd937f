"""The method and the report, compiled. Options, events and states are JSON."""

from os import PathLike
from typing import Sequence

__version__: str

Norms = tuple[float | None, float | None, float | None, float | None]
Array = tuple[str, int, bytes]
Companion = tuple[str, str, int | None]

def methods() -> list[str]:
    """The names of all methods."""

def resolve(options: str) -> str:
    """The options of a method as JSON, with every default written out; an error names the key."""

def split(role: str) -> list[str]:
    """The roles inside a fused projection, in the order of its rows; empty for a role that is not fused."""

def report(runs: Sequence[str | PathLike[str]], out: str | PathLike[str]) -> None:
    """Writes the report of these run directories as one HTML file. Only an older report is replaced."""

def figures(run: str | PathLike[str]) -> list[tuple[str, str]]:
    """The figures of a run directory as (title, SVG)."""

class Wants:
    """What a step's observation needs, and what is to be kept for a later one."""

    measure_gradients: bool
    measure_weights: bool
    norm: str
    keep_gradient: bool
    keep_weight: bool
    gradients: bool
    weights: bool
    validation_loss: bool
    gain: bool
    idle: bool
    after_update: bool

class Decision:
    """What the training loop does after an observation."""

    step: int
    freeze: list[str]
    freeze_parts: list[tuple[str, int]]
    unfreeze: list[str]
    freeze_companions: list[Companion]
    unfreeze_companions: list[Companion]
    masks: list[tuple[str, int, list[bool]]]
    save_best: bool
    restore_best: bool
    stop: str | None
    signals: list[tuple[str, float]]
    events: list[str]

class Policy:
    """A method at work in one run."""

    def __init__(
        self, options: str, units: list[str], planned_steps: int, warmup_steps: int = 0, epoch_steps: int | None = None, seed: int = 0
    ) -> None: ...
    @property
    def name(self) -> str: ...
    @property
    def options(self) -> str: ...
    @property
    def needs_lora(self) -> bool: ...
    @property
    def needs_validation(self) -> bool: ...
    @property
    def signal(self) -> tuple[str, str, str] | None:
        """What is measured, in which norm, and whether it freezes `above` or `below` its threshold."""

    def threshold(self, name: str) -> float | None: ...
    def wants(self, step: int) -> Wants: ...
    def observe(
        self,
        step: int,
        measurements: list[tuple[str, list[Norms]]],
        gradients: list[Array] = ...,
        weights: list[Array] = ...,
        training_loss: float | None = None,
        validation_loss: float | None = None,
        flops: int = 0,
        seconds: float = 0.0,
    ) -> Decision:
        """Takes what was measured at a step and decides: for each unit that trains a tuple a tensor, ‖∇W_t‖, ‖∇W_{t−1}‖,
        ‖∇W_t − ∇W_{t−1}‖, ‖W_t − W_s‖.
        """

    def observe_gains(self, step: int, units: list[tuple[str, float, int, int]], others: float, flops: int, held: int) -> None: ...
    def rate_factor(self, step: int, tower: str, layer: int | None) -> float: ...
    def in_force(self) -> Decision: ...
    def frozen(self) -> list[str]: ...
    def state(self) -> tuple[str, dict[str, bytes]]: ...
    def restore(self, state: str, buffers: dict[str, bytes]) -> None: ...
    @staticmethod
    def norm(norm: str, rows: int, columns: int, values: bytes) -> float:
        """A norm of a matrix `[rows, columns]` of f32 in the machine's order."""
