"""What the last updates gained, from what AdamW remembers of them."""

from __future__ import annotations

from typing import Any, Iterable, Sequence

import torch
from torch import Tensor, nn

from . import measure
from .freezing import Freezing
from .measure import Measured
from .units import Part, Unit

__all__ = ["Gains"]

#: A parameter and the first row of a range of it.
Key = tuple[nn.Parameter, int]


class Gains:
    """The last update of every parameter, told from the optimizer's moments."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, units: Sequence[Unit], freezing: Freezing) -> None:
        self.model, self.optimizer, self.units, self.freezing = model, optimizer, units, freezing
        #: By parameter the ranges of its rows that are matrices of their own.
        self._ranges: dict[nn.Parameter, list[Part]] = {}
        for part in self._parts():
            if not part.whole:
                self._ranges.setdefault(part.parameter, []).append(part)
        #: By parameter the learning rate of the last step and the number of updates it has had.
        self._last: dict[nn.Parameter, tuple[float, int]] = {}

    @property
    def are_told(self) -> bool:
        """Whether the optimizer's moments tell what it did."""
        return isinstance(self.optimizer, (torch.optim.AdamW, torch.optim.Adam))

    def updated(self) -> None:
        """The optimizer has made a step."""
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    made = self._last[parameter][1] if parameter in self._last else self._updates_made(parameter) - 1
                    self._last[parameter] = (float(group["lr"]), made + 1)

    def forget(self, parameter: nn.Parameter) -> None:
        """Its moments are gone."""
        self._last.pop(parameter, None)

    def last_updates(self) -> list[tuple[Key, measure.Update]]:
        """The last update of every parameter with a gradient, of ranges of rows by their first; empty where the optimizer does not tell."""
        updates: list[tuple[Key, measure.Update]] = []
        if not self.are_told:
            return updates
        for group in self.optimizer.param_groups:
            decoupled = isinstance(self.optimizer, torch.optim.AdamW) or group.get("decoupled_weight_decay", False)
            if group.get("amsgrad") or group.get("maximize"):
                return []
            (beta1, beta2), decay = group["betas"], group["weight_decay"] if decoupled else 0.0
            for parameter in group["params"]:
                state = self.optimizer.state.get(parameter, {})
                if parameter.grad is None or parameter not in self._last or "exp_avg_sq" not in state:
                    continue
                rate, updates_made = self._last[parameter]
                taken = rate * decay
                for part in self._ranges.get(parameter, [Part("", parameter)]):
                    update = measure.Update(
                        weight=part.of(parameter),
                        gradient=part.of(parameter.grad),
                        first=part.of(state["exp_avg"]),
                        second=part.of(state["exp_avg_sq"]),
                        step_size=rate / (1 - beta1**updates_made) / (1 - taken),
                        root=(1 - beta2**updates_made) ** 0.5,
                        epsilon=float(group["eps"]),
                        decay=taken / (1 - taken),
                    )
                    if not self.freezing.is_frozen(part):
                        updates.append(((parameter, part.start), update))
        return updates

    def by_unit(self, training: Iterable[tuple[Unit, list[tuple[str, Part]]]], measured: Measured) -> tuple[Any, ...]:
        """What `_core.Policy.observe_gains` takes: of each unit that trains its name, gain, arithmetic and bytes; the gain of all else; and
        the arithmetic and the bytes of a step, the former by token.
        """
        units, of_units = [], set()
        for unit, parts in training:
            tensors = [part for _, part in parts] + [part for part in unit.others if not self.freezing.is_frozen(part)]
            keys = {(part.parameter, part.start) for part in tensors}
            of_units |= keys
            saves = sum(2 * part.of(part.parameter).numel() for _, part in parts)
            held = sum(part.of(part.parameter).numel() * self._bytes_each(part.parameter) for part in tensors)
            units.append((unit.name, sum(measured.gains.get(key, 0.0) for key in keys), saves, held))
        frozen = {(part.parameter, part.start) for part in self._parts() if self.freezing.is_frozen(part)}
        others = sum(gain for key, gain in measured.gains.items() if key not in of_units and key not in frozen)
        matrices = [p for p in self.model.parameters() if p.ndim > 1]
        flops = sum(2 * p.numel() * (3 if p.requires_grad else 2) for p in matrices)
        trained = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        return units, others, flops, sum(p.numel() * self._bytes_each(p) for p in trained)

    def state(self) -> dict[str, tuple[float, int]]:
        """By the names of the model's parameters."""
        return {name: self._last[p] for name, p in self.model.named_parameters() if p in self._last}

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from `state`."""
        named = dict(self.model.named_parameters())
        self._last = {named[name]: (float(rate), int(made)) for name, (rate, made) in state.items()}

    def _parts(self) -> Iterable[Part]:
        return (part for unit in self.units for part in (*unit.parts, *unit.others))

    def _updates_made(self, parameter: nn.Parameter) -> int:
        """As the optimizer counts them, asked once: on a device the answer has to be waited for."""
        made = self.optimizer.state.get(parameter, {}).get("step", 1)
        return int(made.item()) if isinstance(made, Tensor) else int(made)

    def _bytes_each(self, parameter: nn.Parameter) -> int:
        """Bytes of gradient and optimizer state, by element."""
        state = self.optimizer.state.get(parameter, {}).values()
        kept = [value.element_size() for value in state if isinstance(value, Tensor) and value.shape == parameter.shape]
        return parameter.element_size() + sum(kept)
