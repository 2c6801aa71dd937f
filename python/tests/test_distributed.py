"""Two processes decide as one: DDP and FSDP2 over gloo."""

from __future__ import annotations

import json
import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

if not dist.is_available() or os.name == "nt":
    pytest.skip("torch.distributed with gloo is not here", allow_module_level=True)

STEPS, WORLD = 36, 2
CONFIG = dict(tau=0.70, signal="relative_gradient_change", alpha=0.2, norm="frobenius")


class Net(torch.nn.Module):
    """Layers whose projections have names that this package knows."""

    def __init__(self, layers=2, width=16):
        super().__init__()
        torch.manual_seed(0)
        self.embed = torch.nn.Linear(8, width)
        self.layers = torch.nn.ModuleList(
            torch.nn.ModuleDict(
                {"norm": torch.nn.LayerNorm(width), "up_proj": torch.nn.Linear(width, 32), "down_proj": torch.nn.Linear(32, width)}
            )
            for _ in range(layers)
        )
        self.head = torch.nn.Linear(width, 3)

    def forward(self, x):
        x = self.embed(x)
        for layer in self.layers:
            x = x + layer["down_proj"](torch.nn.functional.silu(layer["up_proj"](layer["norm"](x))))
        return self.head(x)


def batches():
    generator = torch.Generator().manual_seed(3)
    teacher = torch.randn(8, 3, generator=generator)
    for _ in range(STEPS):
        x = torch.randn(32, 8, generator=generator)
        yield x, (x @ teacher + torch.randn(32, 3, generator=generator)).argmax(-1)


def run(model, inner, rank=0, world=1, freeze_every=None):
    from gradestop import GradES, GradESConfig

    optimizer = torch.optim.AdamW(inner.parameters(), lr=1e-2)
    stopper = GradES(model, optimizer, total_steps=STEPS, epoch_steps=12, config=GradESConfig(**CONFIG, trace=True), freeze_every=freeze_every)
    stopper.losses = []
    for x, y in batches():
        part = slice(rank * 32 // world, (rank + 1) * 32 // world)
        loss = torch.nn.functional.cross_entropy(model(x[part]), y[part])
        stopper.observe_loss(loss)
        loss.backward()
        stopper.clip_grad_norm_(0.5)
        optimizer.step()
        stopper.losses.append(stopper._loss_of_step)
        optimizer.zero_grad()
        if stopper.should_stop:
            break
    return stopper


def worker(rank, port, kind, folder, freeze_every):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=WORLD)
    inner = Net()
    if kind == "ddp":
        model = torch.nn.parallel.DistributedDataParallel(inner)
    elif kind == "ddp_views":
        model = torch.nn.parallel.DistributedDataParallel(inner, gradient_as_bucket_view=True)
    else:
        from torch.distributed.fsdp import fully_shard

        mesh = dist.device_mesh.init_device_mesh("cpu", (WORLD,))
        for layer in inner.layers:
            fully_shard(layer["up_proj"], mesh=mesh)
        model = fully_shard(inner, mesh=mesh)
    stopper = run(model, model if kind == "fsdp2" else inner, rank, WORLD, freeze_every)
    whole = lambda p: p.full_tensor() if hasattr(p, "full_tensor") else p  # noqa: E731
    weights = {name: whole(p.detach()).double().sum().item() for name, p in inner.named_parameters()}
    told = dict(events=stopper.events, signals=stopper.record.signals, weights=weights, losses=stopper.losses)
    with open(os.path.join(folder, f"{rank}.json"), "w") as file:
        json.dump(told, file)
    dist.barrier()
    dist.destroy_process_group()


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("kind,freeze_every", [("ddp", 1), ("ddp", None), ("ddp_views", 5), ("fsdp2", None)])
def test_two_processes_decide_as_one(tmp_path, kind, freeze_every):
    model = Net()
    alone = run(model, model)
    assert 0 < len(alone.frozen) and any(event["event"] == "freeze" for event in alone.events)
    mp.spawn(worker, args=(free_port(), kind, str(tmp_path), freeze_every), nprocs=WORLD)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(WORLD))
    assert first["events"] == second["events"] and first["signals"] == second["signals"]
    # Each process saw half of the samples.
    assert first["losses"] == second["losses"] and first["losses"] == pytest.approx(alone.losses, rel=1e-4)
    moves = lambda events: [(e["event"], e["step"], e.get("unit")) for e in events]  # noqa: E731
    assert moves(first["events"]) == moves(alone.events)
    for (step, ours), (_, theirs) in zip(alone.record.signals, first["signals"]):
        for unit, value in ours.items():
            assert theirs[unit] == pytest.approx(value, rel=1e-4), (step, unit)
    for name, parameter in model.named_parameters():
        assert first["weights"][name] == pytest.approx(parameter.detach().double().sum().item(), rel=1e-3, abs=1e-4), name
