"""Runs of several processes, and wrappers of models: what is supported, and what is refused with a sentence."""

from __future__ import annotations

import gc
from typing import Any, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["Group", "check", "data_parallel", "is_compiled", "rebuild"]


class Group:
    """The processes that train one model together."""

    def __init__(self, model: nn.Module) -> None:
        self.ddp = data_parallel(model)
        self._shards = self._shard_groups(model)

    @staticmethod
    def _shard_groups(model: nn.Module) -> list[Any]:
        """Over which groups of processes the parameters are cut into shards (FSDP2)."""
        for parameter in model.parameters():
            mesh = getattr(parameter, "device_mesh", None)
            if mesh is not None:
                placed = enumerate(parameter.placements)
                return [mesh.get_group(dim) for dim, placement in placed if placement.is_shard()]
        return []

    @property
    def is_sharded(self) -> bool:
        """Whether parameters are cut into shards."""
        return bool(self._shards)

    @property
    def rank(self) -> int:
        """This process, from 0."""
        return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0

    def sum(self, values: Tensor) -> Tensor:
        """Sums over shards; of whole tensors what the first process has found, so that all processes decide alike."""
        for group in self._shards:
            dist.all_reduce(values, group=group)
        if not self._shards and self.ddp is not None:
            group = self.ddp.process_group
            dist.broadcast(values, dist.get_global_rank(group, 0), group=group)
        return values

    def mean(self, value: Tensor) -> Tensor:
        """The mean over all processes of what each has found for its own samples."""
        if self._shards or self.ddp is not None:
            group = self.ddp.process_group if self.ddp is not None else None
            value = value.clone()
            dist.all_reduce(value, group=group)
            value /= dist.get_world_size(group)
        return value


def data_parallel(model: nn.Module) -> nn.parallel.DistributedDataParallel | None:
    """The DDP that a model is, or that wraps it."""
    kind = nn.parallel.DistributedDataParallel
    if isinstance(model, kind):
        return model
    if not (dist.is_available() and dist.is_initialized()):
        return None
    inner = getattr(model, "_orig_mod", model)
    wraps = (each for each in gc.get_objects() if issubclass(type(each), kind))
    return next((each for each in wraps if each.module in (model, inner) or getattr(each.module, "_orig_mod", None) is inner), None)


def rebuild(ddp: nn.parallel.DistributedDataParallel) -> None:
    """Makes DDP wait for the gradients of what trains now, and for no others.

    DDP lists its parameters once, and a backward pass that ends without the gradient of one of them is an error at the next. What is
    done here is what DDP does itself when it is unpickled.
    """
    if not any(parameter.requires_grad for parameter in ddp.module.parameters()):
        return
    parameters, expects_sparse = ddp._build_params_for_reducer()
    names = ddp._build_debug_param_to_name_mapping(parameters)
    ddp._ddp_init_helper(parameters, expects_sparse, names, ddp.static_graph)


def is_compiled(model: nn.Module) -> bool:
    """Whether ``torch.compile`` has made a graph of the model or of something in it."""
    inner = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    return any(hasattr(each, "_orig_mod") or each._compiled_call_impl is not None for each in inner.modules())


def reset_graphs() -> None:
    """Forgets compiled graphs, which hold what trained when they were made."""
    torch._dynamo.reset()


def unwrap_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer of PyTorch behind Accelerate's."""
    while not isinstance(optimizer, torch.optim.Optimizer) or hasattr(optimizer, "accelerator_state"):
        inner = getattr(optimizer, "optimizer", None)
        if inner is None:
            break
        optimizer = inner
    return optimizer


def check(model: nn.Module, optimizer: Any) -> None:
    """Refuses what would not do what it says.

    Raises:
        ValueError: with one sentence that names the way out.
    """
    kinds = {type(model).__module__, type(optimizer).__module__}
    if any(kind.startswith("deepspeed") for kind in kinds):
        raise ValueError("DeepSpeed keeps gradients and optimizer states out of sight; train with DDP or FSDP2 to stop matrices by their gradients")
    if any("fully_sharded_data_parallel" in type(each).__module__ for each in model.modules()):
        raise ValueError("FSDP1 trains all of a flat parameter or none of it; use FSDP2 (`fully_shard`, in Accelerate `fsdp_version: 2`)")
    if not hasattr(optimizer, "register_step_pre_hook"):
        name = type(optimizer).__name__
        raise ValueError(f"{name} has no hook before its step (`register_step_pre_hook`), where gradients are measured; use an optimizer of torch.optim")


def shards_norm(norm: str, sharded: Sequence[Any]) -> None:
    """Refuses norms that the shards of a matrix do not tell."""
    if sharded and norm not in ("l1", "frobenius"):
        raise ValueError(f"`norm: {norm}` needs whole matrices, and FSDP2 has only rows of them; use `l1` or `frobenius`")
