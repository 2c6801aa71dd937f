"""Networks that the paper leaves for later: convolutional, graph, and state-space. In each, matrices freeze by ``tau="auto"``."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gradestop import GradES


class ConvNet(nn.Module):
    """Small, for pictures of 8 by 8."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.fc = nn.Linear(64, 4)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc(x.flatten(1))


class GraphConv(nn.Module):
    """Kipf and Welling's: neighbours' features, averaged, times a matrix."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.lin = nn.Linear(inputs, outputs)

    def forward(self, x, adjacency):
        return adjacency @ self.lin(x)


class GraphNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([GraphConv(12, 16), GraphConv(16, 3)])

    def forward(self, x, adjacency):
        return self.convs[1](F.relu(self.convs[0](x, adjacency)), adjacency)


class MambaBlock(nn.Module):
    """Gu and Dao's selective state space, as a plain loop over time."""

    def __init__(self, width=16, state=4, rank=2):
        super().__init__()
        inner = 2 * width
        self.norm = nn.LayerNorm(width)
        self.in_proj = nn.Linear(width, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, 3, groups=inner, padding=2)
        self.x_proj = nn.Linear(inner, rank + 2 * state, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.A_log = nn.Parameter(torch.arange(1.0, state + 1).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, width, bias=False)
        self.sizes = (rank, state, state)

    def forward(self, hidden):
        x, gate = self.in_proj(self.norm(hidden)).chunk(2, -1)
        x = F.silu(self.conv1d(x.transpose(1, 2))[..., : hidden.shape[1]].transpose(1, 2))
        dt, b, c = self.x_proj(x).split(self.sizes, -1)
        dt = F.softplus(self.dt_proj(dt))
        decay = torch.exp(dt[..., None] * -self.A_log.exp())
        state, out = torch.zeros_like(decay[:, 0]), []
        for t in range(hidden.shape[1]):
            state = decay[:, t] * state + dt[:, t, :, None] * b[:, t, None] * x[:, t, :, None]
            out.append((state * c[:, t, None]).sum(-1))
        y = torch.stack(out, 1) + self.D * x
        return hidden + self.out_proj(y * F.silu(gate))


class Mamba(nn.Module):
    def __init__(self, vocabulary=12, width=16, layers=2):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(nn.ModuleDict({"mixer": MambaBlock(width)}) for _ in range(layers))
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, ids):
        hidden = self.embed(ids)
        for layer in self.layers:
            hidden = layer["mixer"](hidden)
        return self.head(hidden)


def train(model, loss_of, rows, steps, batch=16, units=None, lr=3e-3):
    """Epochs over shuffled rows, some of which are wrong. Returns the stopper and the losses."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    epoch = rows // batch
    stopper = GradES(model, optimizer, total_steps=steps, epoch_steps=epoch, units=units)
    generator, losses = torch.Generator().manual_seed(4), []
    for step in range(steps):
        if step % epoch == 0:
            order = torch.randperm(rows, generator=generator)
        loss = loss_of(order[step % epoch * batch :][:batch])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if stopper.should_stop:
            break
    return stopper, losses


def noisy(labels, classes, generator, share=0.25):
    wrong = torch.rand(labels.shape, generator=generator) < share
    return torch.where(wrong, torch.randint(0, classes, labels.shape, generator=generator), labels)


def told(stopper, losses, name):
    steps = sorted(event["step"] for event in stopper.events if event["event"] == "freeze")
    print(f"{name}: {len(steps)} of {len(stopper.units)} matrices froze at steps {steps[0]} to {steps[-1]}, loss {losses[0]:.3f} to "
          f"{sum(losses[-5:]) / 5:.3f}, ended at {stopper.step} of {stopper.total_steps} by {stopper.stopped_by}")


def check(stopper, losses, steps):
    assert stopper.stopped_by == "all_frozen" and stopper.step < steps
    assert set(stopper.frozen) == {unit.name for unit in stopper.units}
    assert sum(losses[-10:]) < sum(losses[:10])
    # By agreement's floor or by the end: the window of the average has passed in any case.
    assert min(event["step"] for event in stopper.events if event["event"] == "freeze") > max(10, steps // 12)


def test_a_convolutional_net():
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    kinds = torch.randn(4, 1, 8, 8, generator=generator)
    labels = torch.randint(0, 4, (256,), generator=generator)
    pictures = kinds[labels] + torch.randn(256, 1, 8, 8, generator=generator)
    labels, model = noisy(labels, 4, generator), ConvNet()
    stopper, losses = train(model, lambda at: F.cross_entropy(model(pictures[at]), labels[at]), 256, 400, units="all")
    assert [unit.name for unit in stopper.units] == ["model.0.conv1", "model.0.conv2", "model.0.fc"]
    told(stopper, losses, "convolutional net")
    check(stopper, losses, 400)


def communities():
    """Nodes of three classes, some of which are told wrong, with more edges within a class than between two: features, edges, labels."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    nodes, labels = 192, torch.randint(0, 3, (192,), generator=generator)
    same = labels[:, None] == labels[None]
    edges = torch.rand(nodes, nodes, generator=generator) < torch.where(same, 0.06, 0.01)
    features = torch.randn(3, 12, generator=generator)[labels] + 2 * torch.randn(nodes, 12, generator=generator)
    return features, edges | edges.T | torch.eye(nodes, dtype=torch.bool), noisy(labels, 3, generator)


def test_a_graph_net():
    features, edges, labels = communities()
    adjacency, model = edges / edges.sum(1, keepdim=True), GraphNet()
    loss = lambda at: F.cross_entropy(model(features, adjacency)[at], labels[at])  # noqa: E731
    stopper, losses = train(model, loss, len(labels), 400, units="all", lr=1e-2)
    assert [unit.name for unit in stopper.units] == ["convs.0.lin", "convs.1.lin"]
    told(stopper, losses, "graph net")
    check(stopper, losses, 400)


def test_a_graph_net_of_torch_geometric():
    geometric = pytest.importorskip("torch_geometric.nn")
    features, edges, labels = communities()
    between = (edges & ~torch.eye(len(labels), dtype=torch.bool)).nonzero().T
    model = nn.ModuleList([geometric.GCNConv(12, 16), geometric.SAGEConv(16, 3)])
    loss = lambda at: F.cross_entropy(model[1](F.relu(model[0](features, between)), between)[at], labels[at])  # noqa: E731
    stopper, losses = train(model, loss, len(labels), 400, units="all", lr=1e-2)
    assert [unit.name for unit in stopper.units] == ["model.0.lin", "model.1.lin_l", "model.1.lin_r"]
    told(stopper, losses, "torch-geometric")
    check(stopper, losses, 400)


def test_a_mamba_block():
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    start = torch.randint(0, 12, (128, 1), generator=generator)
    rows = noisy((start + torch.arange(10)) % 12, 12, generator)
    model = Mamba()
    loss = lambda at: F.cross_entropy(model(rows[at, :-1]).flatten(0, 1), rows[at, 1:].flatten())  # noqa: E731
    stopper, losses = train(model, loss, 128, 300, lr=1e-2)
    roles = ("in_proj", "x_proj", "dt_proj", "out_proj")
    assert [unit.name for unit in stopper.units] == [f"language.{layer}.{role}" for layer in (0, 1) for role in roles]
    told(stopper, losses, "Mamba")
    check(stopper, losses, 300)
