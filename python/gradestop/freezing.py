"""What frozen means to PyTorch: no gradient, no optimizer state, no update; and elements that stay what they are."""

from __future__ import annotations

from typing import Iterable

import torch
from torch import Tensor, nn

from .units import Part

__all__ = ["Freezing"]


class Freezing:
    """Freezes parameters, ranges of their rows, and single elements.

    A parameter that is frozen gets no update from that very step on: its gradient is gone before the optimizer sees it. Only whether
    autograd still computes it (``requires_grad``) may change later, with others together (`settle`): each such change costs a
    compiled graph or a rebuilt DDP.

    A range of rows cannot be taken from the optimizer. It is put back after each step, which weight decay and momentum moved it in.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, every: int = 1) -> None:
        self.optimizer = optimizer
        #: Steps between changes of ``requires_grad``.
        self.every = every
        #: Frozen by the method; `requires_grad` may follow later.
        self.frozen: dict[nn.Parameter, None] = {}
        #: By parameter its frozen ranges, with the values that they keep.
        self.held: dict[nn.Parameter, list[tuple[Part, Tensor]]] = {}
        #: By parameter which elements train, as 1 and 0.
        self.masks: dict[nn.Parameter, Tensor] = {}
        #: Those whose gradients autograd will be told to leave out.
        self.unsettled: dict[nn.Parameter, None] = {}

    def is_frozen(self, part: Part) -> bool:
        """Whether a part trains no more."""
        held = self.held.get(part.parameter, [])
        return part.parameter in self.frozen or any(of.start == part.start and of.stop == part.stop for of, _ in held)

    def freeze(self, parts: Iterable[Part]) -> None:
        """Freezes for this step already."""
        for part in parts:
            if self.is_frozen(part):
                continue
            if not part.whole:
                held = self.held.setdefault(part.parameter, [])
                held.append((part, part.of(part.parameter.detach()).clone()))
                if sum(of.stop - of.start for of, _ in held) < part.parameter.shape[part.dim]:
                    continue
                # All of its ranges are: the parameter is.
                self._put_back(part.parameter)
                del self.held[part.parameter]
            self.frozen[part.parameter] = None
            self.unsettled[part.parameter] = None
            part.parameter.grad = None
            self.optimizer.state.pop(part.parameter, None)

    def unfreeze(self, parts: Iterable[Part]) -> None:
        """Trains again from the next step on, with fresh optimizer state."""
        for part in parts:
            if part.parameter in self.frozen:
                del self.frozen[part.parameter]
                self.unsettled[part.parameter] = None
            held = [pair for pair in self.held.pop(part.parameter, []) if pair[0].start != part.start]
            if held:
                self.held[part.parameter] = held

    def mask(self, part: Part, keep: list[bool]) -> None:
        """Sets all elements to zero that are not kept, for good."""
        mask = torch.tensor(keep, device=part.parameter.device).view(part.parameter.shape).to(part.parameter.dtype)
        self.masks[part.parameter] = mask
        with torch.no_grad():
            part.parameter.mul_(mask)
        if part.parameter.grad is not None:
            part.parameter.grad.mul_(mask)
        for value in self.optimizer.state.get(part.parameter, {}).values():
            if isinstance(value, Tensor) and value.shape == mask.shape:
                value.mul_(mask)

    def settle(self, step: int, force: bool = False) -> bool:
        """Tells autograd what trains, where it is time to. Returns whether anything changed."""
        if not self.unsettled or not (force or step % self.every == 0):
            return False
        for parameter in self.unsettled:
            parameter.requires_grad_(parameter not in self.frozen)
        self.unsettled.clear()
        return True

    def before_measuring(self) -> None:
        """Drops the gradients that nobody asked for."""
        for parameter in self.unsettled:
            if parameter in self.frozen:
                parameter.grad = None
        for parameter, mask in self.masks.items():
            if parameter.grad is not None:
                parameter.grad.mul_(mask)

    def before_update(self) -> None:
        """Sets the gradients of frozen rows to zero, so that they move no moments."""
        for parameter, held in self.held.items():
            if parameter.grad is not None:
                for part, _ in held:
                    part.of(parameter.grad).zero_()

    @torch.no_grad()
    def after_update(self) -> None:
        """Puts back what must not have moved."""
        for parameter in self.held:
            self._put_back(parameter)
        for parameter, mask in self.masks.items():
            parameter.mul_(mask)

    @torch.no_grad()
    def _put_back(self, parameter: nn.Parameter) -> None:
        for part, value in self.held.get(parameter, []):
            part.of(parameter.detach()).copy_(value)
