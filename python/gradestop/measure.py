"""Norms of gradients and weights, and gains of updates, where the tensors are.

Everything that a step measures becomes one vector on the device, which is read once. On a processor tensors are gone through one by
one, as dot products where these tell enough, else with one scratch buffer, so that what is read twice is read from the cache; elsewhere
in lists (``torch._foreach_*``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import torch
from torch import Tensor, nn

from .units import local

__all__ = ["Measured", "Pair", "Update", "changes", "gains", "norms", "squares"]

#: Elements of the lists that temporary copies are made of at once: 256 MB of f32.
_AT_ONCE = 1 << 26

_MATRIX_NORMS = {"spectral": 2, "inf": float("inf"), "one": 1}


class Measured:
    """What was measured in a step."""

    def __init__(self) -> None:
        self.norms: dict[str, float] = {}
        self.changes: dict[str, float] = {}
        self.weights: dict[str, float] = {}
        #: By parameter and the first row of its range.
        self.gains: dict[tuple[nn.Parameter, int], float] = {}
        #: The Frobenius norm of all gradients, where it was asked for.
        self.total = 0.0
        #: What all gradients were multiplied by since.
        self.scale = 1.0

    def of(self, key: str, before: dict[str, float]) -> tuple[float | None, float | None, float | None, float | None]:
        change = self.changes.get(key)
        return self.norms.get(key), before.get(key) if change is not None else None, change, self.weights.get(key)


@dataclass(frozen=True)
class Pair:
    """A tensor with the one that it is compared with, which is ``scale`` times what it was kept as."""

    now: Tensor
    before: Tensor
    scale: float = 1.0
    #: Their sums of squares, where they are known: that of `now` as `squares` gives it, and that of ``scale`` times `before`.
    squares: tuple[Tensor, float] | None = None


@dataclass(frozen=True)
class Update:
    """A parameter with what AdamW remembers of it: enough to tell what its last update was (`gains`)."""

    weight: Tensor
    gradient: Tensor
    first: Tensor
    second: Tensor
    #: Of the first moment over the denominator: η / (1 − β₁ⁿ) / (1 − η λ), n the updates made.
    step_size: float
    #: √(1 − β₂ⁿ).
    root: float
    epsilon: float
    #: η λ / (1 − η λ): how much of the weight as it is now the decay has taken.
    decay: float


def _summed(norm: str) -> bool:
    return norm in ("l1", "frobenius")


def _raw(tensors: Sequence[Tensor], norm: str) -> list[Tensor]:
    """By tensor what adds up over shards: the sum of magnitudes, or of squares; a matrix norm as it is."""
    tensors = [local(tensor) for tensor in tensors]
    if not tensors:
        return []
    if norm in _MATRIX_NORMS:
        return [torch.linalg.matrix_norm(t.reshape(t.shape[0], -1).float(), _MATRIX_NORMS[norm]) for t in tensors]
    order = 1 if norm == "l1" else 2
    if tensors[0].is_cuda:
        values = list(torch._foreach_norm(tensors, order, dtype=torch.float32))
    elif norm == "l1":
        # On processors `vector_norm` adds magnitudes one after the other; `sum` adds in pairs, and loses nothing.
        values = [tensor.abs().sum(dtype=torch.float32) for tensor in tensors]
    else:
        return [_square(tensor) for tensor in tensors]
    return values if norm == "l1" else torch._foreach_mul(values, values)


def _square(tensor: Tensor) -> Tensor:
    """The sum of squares on a processor: as a dot product, which takes half as long as `vector_norm`, where there is one."""
    if tensor.dtype == torch.float32 and tensor.is_contiguous():
        flat = tensor.reshape(-1)
        return torch.dot(flat, flat)
    norm = torch.linalg.vector_norm(tensor, 2, dtype=torch.float32)
    return norm * norm


def norms(tensors: Sequence[Tensor], norm: str) -> list[Tensor]:
    """What `finish` makes the norm of each tensor of; tensors of more than two dimensions are matrices of their first one."""
    return _raw(tensors, norm)


def squares(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The sum of squares of each tensor."""
    return _raw(tensors, "frobenius")


def changes(pairs: Sequence[Pair], norm: str) -> list[Tensor]:
    """The same of now − scale · before. Nothing given is changed."""
    found: list[Tensor] = []
    if not pairs:
        return found
    if local(pairs[0].now).is_cuda:
        for chunk in _chunks(pairs, lambda pair: pair.now.numel()):
            now, before = [local(pair.now) for pair in chunk], [local(pair.before) for pair in chunk]
            if all(pair.scale == 1.0 for pair in chunk):
                difference = torch._foreach_sub(now, before)
            else:
                difference = torch._foreach_add(now, before, alpha=-chunk[0].scale)
            found.extend(_raw(difference, norm))
        return found
    scratch = None
    for pair in pairs:
        now, before = local(pair.now), local(pair.before)
        known = _square_of_change(pair) if norm == "frobenius" else None
        if known is not None:
            found.append(known)
            continue
        if scratch is None or scratch.numel() < now.numel() or scratch.dtype != now.dtype:
            scratch = torch.empty(max(p.now.numel() for p in pairs), dtype=now.dtype, device=now.device)
        difference = scratch[: now.numel()].view(now.shape)
        torch.sub(now, before, alpha=pair.scale, out=difference)
        found.extend(_raw([difference], norm))
    return found


def _square_of_change(pair: Pair) -> Tensor | None:
    """‖now − scale · before‖² from their squares and their product, which reads each once and writes nothing; `None` where squares are not known, where
    there is no fast product, and where the two are so close that the digits would cancel.
    """
    now, before = pair.now, pair.before
    fast = all(t.dtype == torch.float32 and t.is_contiguous() and not hasattr(t, "to_local") for t in (now, before))
    if pair.squares is None or not fast:
        return None
    both = pair.squares[0] + pair.squares[1]
    square = both - 2 * pair.scale * torch.dot(now.reshape(-1), before.reshape(-1))
    return square if bool(square > 0.05 * both) else None


def gains(updates: Sequence[Update]) -> list[Tensor]:
    """For each parameter ⟨∇W_t, W_{t−2} − W_{t−1}⟩: how far the last update has lowered the loss of this batch, to first order.

    AdamW took w to w (1 − η λ) − s r with r = m / (√v + ε √(1 − β₂ⁿ)), so that its change is −(s r + η λ w_now) / (1 − η λ).
    """
    found: list[Tensor] = []
    scratch = None
    for update in updates:
        weight, gradient = local(update.weight), local(update.gradient)
        first, second = local(update.first), local(update.second)
        if scratch is None or scratch.numel() < first.numel() or scratch.dtype != first.dtype:
            scratch = torch.empty(max(u.first.numel() for u in updates), dtype=first.dtype, device=first.device)
        # Of the shape and the layout of the moments, so that all passes are one run through memory.
        change = scratch[: first.numel()].view(first.shape)
        torch.sqrt(second, out=change)
        change.add_(update.epsilon * update.root)
        torch.div(first, change, out=change)
        size = update.step_size * update.root
        if update.decay != 0.0:
            change.add_(weight, alpha=update.decay / size)
        gradient = gradient if gradient.dtype == change.dtype else gradient.to(change.dtype)
        found.append(torch.dot(change.reshape(-1), gradient.reshape(-1)).float() * size)
    return found


def finish(value: float, norm: str) -> float:
    """The norm from what `norms` gave, added over all shards."""
    return value**0.5 if norm == "frobenius" else value


def reducible(norm: str) -> bool:
    """Whether the norm of a sharded matrix is found from its shards."""
    return _summed(norm)


def _chunks(items, size):
    chunk, elements = [], 0
    for item in items:
        if chunk and (elements + size(item) > _AT_ONCE or item.scale != chunk[0].scale):
            yield chunk
            chunk, elements = [], 0
        chunk.append(item)
        elements += size(item)
    if chunk:
        yield chunk
