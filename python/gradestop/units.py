"""Which matrices of a model can freeze, and what they are called.

A *unit* is one projection matrix of one layer, written ``language.3.q``: the weight of a linear or convolutional module, the rows of a
fused projection that belong to one role, or the pair A, B of a LoRA adapter. Its bias, and the magnitude of a DoRA adapter, freeze with
it without being measured.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from . import _core

__all__ = ["Part", "Unit", "find_units"]


@dataclass(frozen=True, eq=False)
class Part:
    """One tensor of a unit: a parameter, or a range of it along one dimension."""

    name: str
    parameter: nn.Parameter
    #: Along which dimension the range lies: 0 for ``[out, in]``, 1 for the ``[in, out]`` of ``Conv1D``.
    dim: int = 0
    start: int = 0
    #: Past the last row; ``None`` for all of the parameter.
    stop: int | None = None

    @property
    def whole(self) -> bool:
        """Whether it is all of its parameter."""
        return self.stop is None

    def of(self, tensor: Tensor) -> Tensor:
        """This part of a tensor that is shaped like the parameter: a view."""
        return tensor if self.stop is None else tensor.narrow(self.dim, self.start, self.stop - self.start)


@dataclass(frozen=True, eq=False)
class Unit:
    """A matrix that can freeze."""

    name: str
    #: What is measured: one tensor, or A and B of an adapter.
    parts: tuple[Part, ...]
    #: What freezes with it: bias, DoRA magnitude.
    others: tuple[Part, ...] = ()
    #: Path of its module.
    path: str = ""
    #: Path of the layer that it lies in, where it lies in one.
    layer_path: str | None = None


#: What wraps a model leaves in the paths of its modules.
_WRAPPERS = re.compile(r"(^|\.)(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.|$)")

_ROLES = {
    "q_proj": "q", "q": "q", "query": "q", "wq": "q", "q_lin": "q", "to_q": "q",
    "k_proj": "k", "k": "k", "key": "k", "wk": "k", "k_lin": "k", "to_k": "k",
    "v_proj": "v", "v": "v", "value": "v", "wv": "v", "v_lin": "v", "to_v": "v",
    "o_proj": "o", "o": "o", "wo": "o", "out_lin": "o",
    "qkv_proj": "qkv", "qkv": "qkv", "c_attn": "qkv", "query_key_value": "qkv", "Wqkv": "qkv",
    "gate_proj": "gate", "w1": "gate", "up_proj": "up", "w3": "up", "down_proj": "down", "w2": "down",
    "gate_up_proj": "gate_up", "fc1": "fc1", "fc2": "fc2", "c_fc": "fc1", "lin1": "fc1", "lin2": "fc2",
    "dense_h_to_4h": "fc1", "dense_4h_to_h": "fc2",
    # State-space blocks; their names are their roles.
    "in_proj": "in_proj", "x_proj": "x_proj", "dt_proj": "dt_proj", "out_proj": "out_proj",
}
#: Fused projections whose roles are ranges of rows. Others interleave them head by head, and are one matrix.
_RANGES = {"qkv_proj", "qkv", "c_attn", "Wqkv", "gate_up_proj"}
#: Names of stacks of layers that say nothing of the tower.
_STACKS = {"layers", "layer", "h", "blocks", "block"}


@dataclass
class _Found:
    """A module with a matrix, before it has a name."""

    path: str
    parts: tuple[Part, ...]
    others: tuple[Part, ...] = ()
    #: The role of these rows inside a fused projection.
    role_inside: str | None = None
    transposed: bool = False
    words: list[str] = field(default_factory=list)
    index: int | None = None

    def __post_init__(self) -> None:
        self.words = self.path.split(".") if self.path else []
        self.index = next((i for i, word in enumerate(self.words) if word.isdigit()), None)

    @property
    def prefix(self) -> list[str]:
        return [] if self.index is None else self.words[: self.index]

    @property
    def rest(self) -> list[str]:
        return self.words if self.index is None else self.words[self.index + 1 :]

    @property
    def layer(self) -> int:
        return 0 if self.index is None else int(self.words[self.index])

    @property
    def is_of_pictures(self) -> bool:
        return any("vision" in word or "visual" in word or "image" in word for word in self.words[: self.index])

    def role(self) -> str | None:
        """What the matrix does, where its module's name says it."""
        if not self.rest:
            return None
        last, before = self.rest[-1], ".".join(self.rest[:-1]).lower()
        attends = "att" in before
        role = _ROLES.get(last)
        if last in ("out_proj", "c_proj", "proj", "dense") and attends:
            role = "proj" if self.is_of_pictures else "o"
        elif last == "c_proj":
            role = "fc2"
        elif last == "dense":
            role = "fc1" if before.endswith("intermediate") else "fc2" if before.endswith("output") else None
        if role is None:
            return None
        expert = re.search(r"experts\.(\d+)", before)
        role = self.role_inside or role
        return f"experts.{expert.group(1)}.{role}" if expert else role

    def names(self) -> list[str]:
        """What it may be called, best first: each name says more of where it is than the one before."""
        full = ".".join(_word(word) for word in self.rest) or "weight"
        if self.role_inside is not None:
            full = f"{full}.{self.role_inside}"
        role = self.role() or full
        stacks = [word for word in self.prefix if word not in _STACKS]
        nearest = _word(self.prefix[-1]) if self.prefix else "model"
        tower = "vision" if self.is_of_pictures else "language" if self.prefix and self.prefix[-1] in _STACKS else nearest
        whole = _word("_".join(self.prefix)) or "model"
        tail = _word(stacks[-1]) if stacks else whole
        return [
            f"{tower}.{self.layer}.{_short(role)}",
            f"{tail}.{self.layer}.{_short(role)}",
            f"{whole[-64:].strip('_') or 'model'}.{self.layer}.{_short(full)}",
        ]


def _word(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", text)


def _short(role: str) -> str:
    """At most 64 characters, whole words from the end."""
    while len(role) > 64 and "." in role:
        role = role.split(".", 1)[1]
    return role[-64:]


def clean(path: str) -> str:
    """A module's path without what wrappers add to it."""
    path = _WRAPPERS.sub(lambda match: match.group(1), path)
    path = re.sub(r"\.{2,}", ".", path).strip(".")
    for prefix in ("base_model.model.", "base_model."):
        path = path.removeprefix(prefix)
    return path


def _is_transposed(module: nn.Module) -> bool:
    """Whether the weight is ``[in, out]``, as that of transformers' ``Conv1D``."""
    return type(module).__name__ == "Conv1D"


def _matrices(model: nn.Module) -> Iterator[_Found]:
    """Every module with a trainable matrix of its own, adapters as pairs."""
    inside: set[int] = set()
    for path, module in model.named_modules():
        if id(module) in inside:
            continue
        path = clean(path)
        if hasattr(module, "lora_A") and hasattr(module, "lora_B") and hasattr(module, "base_layer"):
            inside.update(id(child) for child in module.modules())
            yield from _adapters(path, module)
            continue
        weight = getattr(module, "weight", None)
        if not isinstance(weight, nn.Parameter) or weight.ndim < 2 or isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            continue
        if not weight.requires_grad or module._parameters.get("weight") is None:
            continue
        path = re.sub(r"\.modules_to_save\.[^.]+$", "", path)
        bias = module._parameters.get("bias")
        others = (Part(f"{path}.bias", bias),) if bias is not None and bias.requires_grad else ()
        yield _Found(path, (Part(f"{path}.weight", weight),), others, transposed=_is_transposed(module))


def _adapters(path: str, module: nn.Module) -> Iterator[_Found]:
    active = getattr(module, "active_adapters", None) or list(module.lora_A)
    parts, others = [], []
    for adapter in active:
        if adapter not in module.lora_A:
            continue
        for half in (module.lora_A, module.lora_B):
            if half[adapter].weight.requires_grad:
                kind = "lora_A" if half is module.lora_A else "lora_B"
                parts.append(Part(f"{path}.{kind}.{adapter}.weight", half[adapter].weight))
        magnitudes = getattr(module, "lora_magnitude_vector", None)
        if magnitudes is not None and adapter in magnitudes:
            others.append(Part(f"{path}.lora_magnitude_vector.{adapter}", magnitudes[adapter].weight))
    if parts:
        yield _Found(path, tuple(parts), tuple(others))


def _rows(model: nn.Module, role: str, rows: int) -> list[int] | None:
    """How many rows each role inside a fused projection has."""
    if role == "gate_up":
        return [rows // 2, rows // 2] if rows % 2 == 0 else None
    config = getattr(model, "config", None)
    config = getattr(config, "text_config", config)
    heads = getattr(config, "num_attention_heads", None)
    if heads:
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        keys = (getattr(config, "num_key_value_heads", None) or heads) * width
        if heads * width + 2 * keys == rows:
            return [heads * width, keys, keys]
    return [rows // 3] * 3 if rows % 3 == 0 else None


def _split(model: nn.Module, found: _Found) -> list[_Found]:
    """The roles of a fused projection, as ranges of its rows."""
    last, role = (found.rest or [""])[-1], found.role()
    is_pair = len(found.parts) > 1 or ".lora_" in found.parts[0].name
    if role not in ("qkv", "gate_up") or last not in _RANGES or is_pair:
        return [found]
    dim = 1 if found.transposed else 0
    (part,) = found.parts
    rows = _rows(model, role, part.parameter.shape[dim])
    if rows is None:
        return [found]
    split, start = [], 0
    for inside, length in zip(_core.split(role), rows):
        stop = start + length
        cut = lambda of, at: Part(f"{of.name}[{start}:{stop}]", of.parameter, at, start, stop)  # noqa: E731
        others = tuple(cut(other, 0) for other in found.others)
        split.append(_Found(found.path, (cut(part, dim),), others, role_inside=inside))
        start = stop
    return split


def _selected(found: Sequence[_Found], model: nn.Module, units: Any) -> list[tuple[_Found, str | None]]:
    head = getattr(model, "get_output_embeddings", lambda: None)
    head = head() if callable(head) else None
    head = getattr(head, "weight", None)
    found = [each for each in found if all(part.parameter is not head for part in each.parts)]
    if units is None:
        return [(each, None) for each in found if each.index is not None and each.role() is not None]
    if units == "all":
        return [(each, None) for each in found]
    if callable(units):
        return [(each, None) for each in found if units(each.path)]
    if isinstance(units, str):
        units = [units]
    if isinstance(units, Mapping):
        chosen = []
        for name, what in units.items():
            chosen.extend((each, name) for each in _named(found, model, what, name))
        return chosen
    chosen = []
    for what in units:
        for each in _named(found, model, what, what):
            if all(each is not other for other, _ in chosen):
                chosen.append((each, None))
    return chosen


def _named(found: Sequence[_Found], model: nn.Module, what: Any, said: Any) -> list[_Found]:
    """What a pattern, a parameter or a list of parameters means."""
    parameters = {id(parameter): (clean(name), parameter) for name, parameter in model.named_parameters()}
    if isinstance(what, (nn.Parameter, list, tuple)):
        all_of = [what] if isinstance(what, nn.Parameter) else list(what)
        if any(id(parameter) not in parameters for parameter in all_of):
            raise ValueError(f"`units` has {said!r}, which holds a tensor that is no parameter of the model")
        parts = tuple(Part(*parameters[id(parameter)]) for parameter in all_of)
        return [_Found(parts[0].name.removesuffix(".weight"), parts)]
    hits = [each for each in found if fnmatchcase(each.path, what) or any(fnmatchcase(name, what) for name in each.names())]
    if hits:
        return hits
    hits = [_Found(name, (Part(name, of),)) for name, of in parameters.values() if fnmatchcase(name, what) and of.requires_grad]
    if not hits:
        example = found[0].path if found else next(iter(parameters.values()), ("", None))[0]
        raise ValueError(f"`units` has {what!r}, which matches no module or parameter that trains: they are called like {example!r}")
    return hits


def _layer_path(found: _Found, model: nn.Module) -> str | None:
    return None if found.index is None else ".".join(found.words[: found.index + 1])


def find_units(
    model: nn.Module,
    units: str | Sequence[Any] | Mapping[str, Any] | Callable[[str], bool] | None = None,
    split_fused: bool = True,
) -> list[Unit]:
    """The matrices of a model that can freeze.

    Args:
        model: Any module, also wrapped by DDP, FSDP2, ``torch.compile`` or PEFT.
        units: ``None``: the projections of transformer layers and state-space blocks, or the adapters on them. ``"all"``: the weight
            of every linear, convolutional or similar module but the output embedding. A list: patterns (``*``, ``?``) of module
            paths, of names of units or of parameters. A map from names to patterns, parameters or lists of parameters. A function
            of a module's path.
        split_fused: Whether the roles inside a fused projection (``qkv_proj``, ``gate_up_proj``) are units of their own.

    Raises:
        ValueError: if there are none, or two are called alike.
    """
    found = list(_matrices(model))
    if split_fused:
        found = [piece for each in found for piece in _split(model, each)]
    chosen = _selected(found, model, units)
    if not chosen:
        raise ValueError(
            "the model has no projections that this package knows by name and that train: say which matrices may freeze, for example "
            "`units='all'` or `units=['encoder.*']`"
        )
    # The first way of naming by which no two are called alike.
    for way in range(3):
        names = [_name(name, each, way) for each, name in chosen]
        if len(set(names)) == len(names):
            break
    else:
        double = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two matrices would both be called `{double}`: give them names by `units={{name: pattern}}`")
    return [
        Unit(name, each.parts, each.others, each.path, _layer_path(each, model)) for name, (each, _) in zip(names, chosen)
    ]


def _name(given: str | None, found: _Found, way: int) -> str:
    if given is None:
        return found.names()[way]
    if re.fullmatch(r"[A-Za-z0-9_]+\.\d+\.[A-Za-z0-9_.]+", given):
        return given
    name = f"model.0.{_short('.'.join(_word(word) for word in given.split('.')))}"
    # One name for several matrices, as where a pattern has several matches.
    return name if way == 0 else f"{name}.{_short(_word(found.path))}"


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process has: of a sharded one its shard."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor.detach() if isinstance(tensor, torch.Tensor) else tensor
