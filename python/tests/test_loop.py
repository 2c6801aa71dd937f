"""GradES in a loop of PyTorch."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import torch

from gradestop import GradES, GradESConfig, load_run


def train(model, rows, steps=40, config=None, batch=8, stopper=None, optimizer=None, first=0, clip=1.0, **options):
    """A loop as users write it. Returns stopper, optimizer and losses."""
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    stopper = stopper or GradES(model, optimizer, total_steps=steps, config=config, **options)
    losses = []
    for step in range(first, steps):
        at = (step * batch) % len(rows)
        ids = rows[at : at + batch]
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        if clip:
            stopper.clip_grad_norm_(clip)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        stopper.log(loss=loss.item())
        if stopper.should_stop:
            break
    return stopper, optimizer, losses


NUMBER = dict(tau=0.72, signal="relative_gradient_change", alpha=0.2, norm="frobenius")


def test_auto_freezes_and_stops(tiny_llama, tokens, tmp_path):
    model, rows = tiny_llama(), tokens(32)
    stopper, optimizer, losses = train(model, rows, 200, epoch_steps=4)
    assert stopper.stopped_by == "all_frozen" and stopper.step < 200
    assert len(stopper.frozen) == 14 and losses[-1] < losses[0]
    frozen = {event["unit"]: event["step"] for event in stopper.events if event["event"] == "freeze"}
    assert set(frozen) == set(stopper.frozen)
    stopper.save_run(tmp_path / "run")
    run = load_run(tmp_path / "run")
    assert run.frozen_at == frozen and len(run.steps) == stopper.step and run.summary["stopped_by"] == "all_frozen"
    assert [step["loss"] for step in run.steps] == losses
    assert "<svg" in run._repr_html_()
    stopper.report(tmp_path / "report.html")
    assert "<svg" in (tmp_path / "report.html").read_text()
    with pytest.raises(FileExistsError):
        stopper.save_run(tmp_path / "run")


def test_what_is_frozen_costs_nothing_and_does_not_move(tiny_llama, tokens):
    model, rows = tiny_llama(), tokens()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    config = GradESConfig(**NUMBER, max_frozen_share=0.5)
    stopper = GradES(model, optimizer, total_steps=60, config=config)
    for step in range(60):
        ids = rows[(step * 8) % 64 :][:8]
        before = {unit.name: unit.parts[0].parameter.detach().clone() for unit in stopper.units}
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        for unit in stopper.units:
            parameter, moved = unit.parts[0].parameter, not torch.equal(unit.parts[0].parameter, before[unit.name])
            # Not in the step of the freeze either.
            assert moved == (unit.name not in stopper.frozen), (step, unit.name)
            if unit.name in stopper.frozen:
                assert not parameter.requires_grad and parameter.grad is None and parameter not in optimizer.state
                assert not any(key.startswith(unit.name + "#") for key in stopper._kept)
        optimizer.zero_grad(set_to_none=step % 2 == 0)
        if stopper.should_stop:
            break
    assert stopper.stopped_by == "max_frozen_share" and len(stopper.frozen) >= 7


def test_memory_of_frozen_halves(tiny_llama, tokens):
    model, rows = tiny_llama(4), tokens()
    stopper, optimizer, _ = train(model, rows, 80, GradESConfig(**NUMBER, max_frozen_share=0.5))
    share = len(stopper.frozen) / len(stopper.units)
    assert share >= 0.5
    size = lambda names: sum(u.parts[0].parameter.numel() for u in stopper.units if u.name in names)  # noqa: E731
    frozen, all_of = size(set(stopper.frozen)), size({u.name for u in stopper.units})
    matrices = {u.parts[0].parameter for u in stopper.units}
    state = sum(s["exp_avg"].numel() + s["exp_avg_sq"].numel() for p, s in optimizer.state.items() if p in matrices)
    print(f"{len(stopper.frozen)} of {len(stopper.units)} matrices frozen: optimizer state of {2 * all_of} numbers is {state}, kept gradients {stopper.kept_bytes // 4}")
    assert state == 2 * (all_of - frozen)
    gradients = [u.parts[0].parameter.grad for u in stopper.units if u.name in stopper.frozen]
    assert all(gradient is None for gradient in gradients)
    assert stopper.kept_bytes == 0 or stopper.kept_bytes == 4 * (all_of - frozen)


def test_state_dict_resumes_bit_for_bit(tiny_llama, tokens):
    rows, config = tokens(32), GradESConfig(**NUMBER, trace=True)
    whole, _, losses = train(tiny_llama(), rows, 60, config, epoch_steps=4)
    model = tiny_llama()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    half = GradES(model, optimizer, total_steps=60, config=config, epoch_steps=4)
    train(model, rows, 17, config, stopper=half, optimizer=optimizer)
    assert 0 < len(half.frozen) < 14
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), half.state_dict()))
    resumed = tiny_llama()
    resumed.load_state_dict(saved[0])
    again = torch.optim.AdamW(resumed.parameters(), lr=3e-3, weight_decay=0.01)
    again.load_state_dict(saved[1])
    stopper = GradES(resumed, again, total_steps=60, config=config, epoch_steps=4)
    stopper.load_state_dict(saved[2])
    _, _, rest = train(resumed, rows, 60, config, stopper=stopper, optimizer=again, first=17)
    assert stopper.events == whole.events and rest == losses[17:]
    assert stopper.record.signals == whole.record.signals


def test_auto_resumes_bit_for_bit(tiny_llama, tokens):
    # With gains, which depend on AdamW's moments and the last learning rate.
    rows = tokens(32)
    whole, _, _ = train(tiny_llama(), rows, 200, epoch_steps=4)
    model = tiny_llama()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    half = GradES(model, optimizer, total_steps=200, epoch_steps=4)
    train(model, rows, 23, stopper=half, optimizer=optimizer)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), half.state_dict()))
    resumed = tiny_llama()
    resumed.load_state_dict(saved[0])
    again = torch.optim.AdamW(resumed.parameters(), lr=3e-3, weight_decay=0.01)
    again.load_state_dict(saved[1])
    stopper = GradES(resumed, again, total_steps=200, epoch_steps=4)
    stopper.load_state_dict(saved[2])
    train(resumed, rows, 200, stopper=stopper, optimizer=again, first=23)
    assert stopper.events == whole.events and stopper.policy.state() == whole.policy.state()


def test_clipping_here_measures_before_it(tiny_llama, tokens):
    # The same loop clipped hard and not at all has the same signals at the first two steps, where weights have not parted much.
    rows, config = tokens(), GradESConfig(**{**NUMBER, "tau": 0.99}, trace=True)
    runs = []
    for clip in (None, 1e-3):
        model = tiny_llama()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        runs.append(train(model, rows, 5, config, optimizer=optimizer, clip=clip)[0])
    for (step, free), (_, clipped) in zip(runs[0].record.signals, runs[1].record.signals):
        assert step > 1 or not free
        for unit, value in free.items():
            assert clipped[unit] == pytest.approx(value, rel=1e-5), (step, unit)


def test_clip_equals_pytorchs(tiny_llama, tokens):
    model, rows = tiny_llama(), tokens()
    optimizer = torch.optim.AdamW(model.parameters())
    stopper = GradES(model, optimizer, total_steps=10, config=GradESConfig(**{**NUMBER, "tau": 0.99}, trace=True))
    for max_norm in (0.5, 100.0):
        model(input_ids=rows[:8], labels=rows[:8]).loss.backward()
        other = copy.deepcopy({name: p.grad for name, p in model.named_parameters()})
        expected = torch.nn.utils.get_total_norm(list(other.values())).item()
        assert stopper.clip_grad_norm_(max_norm) == pytest.approx(expected, rel=1e-5)
        for name, parameter in model.named_parameters():
            scale = min(1.0, max_norm / (expected + 1e-6))
            torch.testing.assert_close(parameter.grad, other[name] * scale, rtol=1e-5, atol=1e-9)
        optimizer.step()
        optimizer.zero_grad()


def known_losses(stopper):
    """The training losses that the method remembers, by step."""
    return dict(json.loads(stopper.policy.state()[0])["memory"]["detector"]["staircase"]["last"])


def test_the_training_loss_is_seen(tiny_llama, tokens):
    rows = tokens(32)
    stopper, _, losses = train(tiny_llama(), rows, 10, epoch_steps=4)
    assert known_losses(stopper) == dict(enumerate(losses, 1))
    # Of data that do not repeat nothing is read.
    stopper, _, _ = train(tiny_llama(), rows, 10, epoch_steps=10)
    assert "staircase" not in json.loads(stopper.policy.state()[0])["memory"]["detector"]


@pytest.mark.parametrize("told", [False, True])
def test_the_loss_of_accumulated_gradients_is_that_of_the_step(tiny_llama, tokens, told):
    model, rows = tiny_llama(), tokens(16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    stopper = GradES(model, optimizer, total_steps=8, epoch_steps=2)
    whole = {}
    for step in range(1, 5):
        with torch.no_grad():
            whole[step] = model(input_ids=rows, labels=rows).loss.item()
        for ids in rows.split(8):
            # Told the tokens of the whole step, the model divides by them.
            options = dict(num_items_in_batch=torch.tensor(16 * 11)) if told else {}
            loss = model(input_ids=ids, labels=ids, **options).loss
            (loss if told else loss / 2).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert known_losses(stopper) == pytest.approx(whole, rel=1e-5)


def test_a_loss_that_the_model_does_not_return_is_told(tiny_llama, tokens):
    model, rows = tiny_llama(), tokens(8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    stopper = GradES(model, optimizer, total_steps=8, epoch_steps=2)
    told = {}
    for step in range(1, 5):
        logits = model(input_ids=rows).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), rows[:, 1:].flatten())
        if step != 2:
            stopper.observe_loss(loss)
            told[step] = loss.item()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert known_losses(stopper) == told


def test_a_copy_of_the_model_tells_nothing(tiny_llama, tokens):
    model, rows = tiny_llama(), tokens(8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    stopper = GradES(model, optimizer, total_steps=8, epoch_steps=2)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        twin(input_ids=rows, labels=rows)
    loss = model(input_ids=rows, labels=rows).loss
    loss.backward()
    optimizer.step()
    assert known_losses(stopper) == {1: loss.item()}
    stopper.detach()
    assert not model._forward_hooks


@pytest.mark.parametrize("clip", [None, 0.1])
def test_gains_are_inner_products_with_the_last_change(tiny_llama, tokens, clip):
    model, rows = tiny_llama(), tokens()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.3, eps=1e-6)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, 10)
    stopper = GradES(model, optimizer, total_steps=10, epoch_steps=2)
    seen = []
    stopper.policy = _Spy(stopper.policy, seen)
    before, moved = {}, {}
    for step in range(1, 8):
        ids = rows[step * 8 :][:8]
        model(input_ids=ids, labels=ids).loss.backward()
        expected = {n: -(p.grad.double() * moved[n]).sum().item() for n, p in model.named_parameters() if n in moved}
        before = {n: p.detach().double() for n, p in model.named_parameters()}
        if clip:
            stopper.clip_grad_norm_(clip)
        optimizer.step()
        moved = {n: p.detach().double() - before[n] for n, p in model.named_parameters()}
        optimizer.zero_grad()
        scheduler.step()
        if step == 1:
            continue
        units, others, flops = seen[-1]
        found = {u.path + ".weight": gain for u in stopper.units for name, gain, _ in units if name == u.name}
        assert len(found) == 14 and flops > 0
        for name, gain in found.items():
            assert gain == pytest.approx(expected[name], rel=2e-3, abs=2e-6), (step, name)
        rest = sum(gain for name, gain in expected.items() if name not in found)
        assert others == pytest.approx(rest, rel=2e-3, abs=2e-6)


class _Spy:
    def __init__(self, policy, seen):
        self._policy, self._seen = policy, seen

    def observe_gains(self, step, units, others, flops, held):
        self._seen.append(([unit[:3] for unit in units], others, flops))
        self._policy.observe_gains(step, units, others, flops, held)

    def __getattr__(self, name):
        return getattr(self._policy, name)


@pytest.mark.parametrize("method", ["validation_loss", "autofreeze", "freezeout", "lisa", "layerwise_decay", "budget", "none"])
def test_other_methods_run(tiny_llama, tokens, method):
    model, rows = tiny_llama(3), tokens()
    options = {"budget": dict(seconds=1e-9), "validation_loss": dict(patience=1), "lisa": dict(interval_steps=5, active_layers=1)}
    config = GradESConfig(method=method, **options.get(method, {}))
    held_back = tokens(8, seed=5)

    def validate():
        with torch.no_grad():
            return model(input_ids=held_back, labels=held_back).loss.item()

    stopper, _, losses = train(model, rows, 30, config, validate=validate, epoch_steps=8)
    assert all(loss == loss for loss in losses)
    if method == "budget":
        assert stopper.stopped_by == "budget" and len(losses) <= 2
    if method == "none":
        assert len(losses) == 30 and not stopper.frozen
    if method == "lisa":
        assert any(event["event"] == "unfreeze" for event in stopper.events)


def test_a_budget_of_memory_freezes_until_it_fits(tiny_llama, tokens):
    model, rows = tiny_llama(3), tokens()
    held = lambda: sum(12 * p.numel() for p in model.parameters() if p.requires_grad)
    matrices = sum(12 * p.numel() for name, p in model.named_parameters() if "proj" in name)
    budget = held() - matrices // 2
    stopper, optimizer, losses = train(model, rows, 60, GradESConfig(method="budget", memory=budget), epoch_steps=100)
    frozen = [event["step"] for event in stopper.events if event["event"] == "freeze"]
    # Weighed from step 20 on, decided at 40; nothing ends.
    assert len(losses) == 60 and set(frozen) == {40} and len(frozen) < 21
    assert held() <= budget < held() + 12 * 32 * 48
    plan = next(event for event in stopper.events if event["event"] == "plan")
    assert [unit["freezes"] for unit in plan["order"]] == [i < len(frozen) for i in range(21)]
    assert [unit["worth"] for unit in plan["order"]] == sorted(unit["worth"] for unit in plan["order"])


def test_gains_are_asked_of_adamw_alone(tiny_llama):
    model = tiny_llama(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for options in (dict(method="budget", memory=1e6), dict(method="budget", flops=1e9, freeze=True), dict(auto={"freeze": "gain"})):
        with pytest.raises(ValueError, match="AdamW"):
            GradES(model, optimizer, total_steps=10, config=GradESConfig(**options))


def test_a_frozen_matrix_is_tried_again(tiny_llama, tokens):
    config = GradESConfig(tau={"q": 1e9, "default": 1e-9}, alpha=0.1, unfreeze=True, auto={"window": 3})
    stopper, _, _ = train(tiny_llama(3), tokens(), 20, config)
    of = [(e["step"], e["event"]) for e in stopper.events if e.get("unit") == "language.0.q"]
    assert of == [(3, "freeze"), (6, "unfreeze"), (8, "freeze"), (14, "unfreeze"), (16, "freeze")], of


def test_layerwise_decay_moves_low_layers_less(tiny_llama, tokens):
    model, plain = tiny_llama(3), tiny_llama(3)
    rows = tokens()
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    for each, config in ((model, GradESConfig(method="layerwise_decay")), (plain, GradESConfig(method="none"))):
        train(each, rows, 1, config, optimizer=torch.optim.SGD(each.parameters(), lr=0.1), clip=None)
    ratios = []
    for layer in range(3):
        name = f"model.layers.{layer}.mlp.down_proj.weight"
        of = lambda m: (dict(m.named_parameters())[name].detach() - start[name]).norm()  # noqa: E731
        ratios.append((of(model) / of(plain)).item())
    assert ratios[0] < ratios[1] < ratios[2] <= 1.0001


def test_refusals_are_one_sentence(tiny_llama):
    model = tiny_llama()

    class Odd:
        param_groups = [{"params": list(model.parameters()), "lr": 1e-3}]

    with pytest.raises(ValueError, match="Odd has no hook before its step"):
        GradES(model, Odd(), total_steps=5)
    optimizer = torch.optim.AdamW(model.parameters())
    GradES(model, optimizer, total_steps=5)
    with pytest.raises(ValueError, match="watched already"):
        GradES(model, optimizer, total_steps=5)
    with pytest.raises(ValueError, match="units"):
        GradES(torch.nn.Linear(3, 3), torch.optim.SGD([torch.nn.Parameter(torch.ones(1))]), total_steps=5)
    with pytest.raises(ValueError, match="LoRA"):
        GradES(model, torch.optim.AdamW(model.parameters()), total_steps=5, config=GradESConfig(method="aflora"))
    with pytest.raises(ValueError, match="`method: grade`"):
        GradESConfig(method="grade")


@pytest.mark.slow
def test_graphs_are_forgotten_where_a_model_is_compiled(tiny_llama, tokens):
    rows, config = tokens(32), GradESConfig(**NUMBER)
    eager, _, losses = train(tiny_llama(), rows, 30, config)
    model = tiny_llama()
    stopper, _, compiled = train(torch.compile(model, backend="aot_eager"), rows, 30, config, freeze_every=10)
    assert stopper.compiled and stopper.frozen
    assert [e for e in stopper.events if e["event"] == "freeze"] and stopper.frozen == eager.frozen
    assert compiled == pytest.approx(losses, rel=1e-4)
    # What freezes between two changes of `requires_grad` does not move, and is told to autograd at the next.
    assert stopper.step % 10 or all(not u.parts[0].parameter.requires_grad for u in stopper.units if u.name in stopper.frozen)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(tiny_llama, tokens, reentrant):
    rows, config = tokens(32), GradESConfig(**NUMBER)
    plain, _, losses = train(tiny_llama(), rows, 40, config)
    model = tiny_llama()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    if reentrant:
        model.enable_input_require_grads()
    model.train()
    stopper, _, again = train(model, rows, 40, config)
    assert stopper.events == plain.events and again == losses
