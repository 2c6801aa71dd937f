"""GradES in a training loop of PyTorch: measures before each step of the optimizer, decides, freezes."""

from __future__ import annotations

import math
import time
from typing import Any, Callable

import torch
from torch import Tensor, nn

from . import _core, distributed, measure
from .companions import Companions
from .config import GradESConfig
from .freezing import Freezing
from .gains import Gains
from .measure import Measured
from .record import Record
from .units import Part, Unit, find_units, local

__all__ = ["GradES"]

#: A state of another version is refused.
_VERSION = 1


class _Losses:
    """The losses of the passes since the last step, and the hook that sees them where a model returns its own.

    What copies or pickles the model gets a hook that keeps nothing of this run.
    """

    def __init__(self) -> None:
        self._means: list[Tensor] = []
        self._shares: list[Tensor] = []

    def __reduce__(self) -> Any:
        return _Losses, ()

    def __call__(self, model: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        # Inside a graph nothing can be kept.
        loss = None if torch.compiler.is_compiling() else getattr(output, "loss", None)
        if isinstance(loss, Tensor) and loss.requires_grad and loss.numel() == 1:
            # Told how many tokens the whole step has, Transformers divides by them: the passes' losses then add up to the step's.
            self.add(loss, kwargs.get("num_items_in_batch") is not None)

    def add(self, loss: Tensor, is_share: bool) -> None:
        (self._shares if is_share else self._means).append(loss.detach().to(torch.float32).reshape(()))

    def take(self) -> Tensor:
        """The step's loss; NaN where none was seen."""
        shares, means = self._shares, self._means
        self._shares, self._means = [], []
        if shares:
            return torch.stack(shares).sum()
        return torch.stack(means).mean() if means else torch.tensor(math.nan)


class GradES:
    """Watches the matrices of a model in training and freezes each when it is time.

    ::

        stopper = GradES(model, optimizer, total_steps=1000, epoch_steps=len(loader))
        for batch in loader:
            model(**batch).loss.backward()
            stopper.clip_grad_norm_(1.0)      # in place of torch.nn.utils.clip_grad_norm_
            optimizer.step()                  # measures, decides and freezes
            scheduler.step()
            optimizer.zero_grad()
            if stopper.should_stop:
                break

    Everything happens in hooks of the optimizer's step, so it works through Accelerate and with gradients that are accumulated. A
    matrix that freezes at a step is not updated in it any more (Algorithm 1 of the paper). After a step the gradients of the matrices are
    kept here and no longer in ``parameter.grad``.

    Gradients are measured as the optimizer gets them. Where they are clipped by another function before, that is after clipping: it
    changes nothing for ``tau="auto"`` without repeated data, which asks for angles, and everything for a number as threshold.

    Where samples come again, ``tau="auto"`` asks by the training loss whether they are learnt by heart. A model that returns its loss as
    those of Transformers do (``output.loss``) tells it by itself; in another loop call `observe_loss`. Where no loss is known, samples
    count as known from the second epoch on.

    Args:
        model: The model, wrapped (DDP, FSDP2, ``torch.compile``, PEFT) or not.
        optimizer: An optimizer of ``torch.optim``, or Accelerate's around one.
        total_steps: Steps of the optimizer that are planned.
        config: The method and its options; GradES with ``tau="auto"`` where it is left out.
        epoch_steps: Steps of one epoch, after which samples repeat. Left out, the run is taken for one epoch.
        warmup_steps: Steps of the learning rate's warm-up.
        seed: For methods that draw.
        units: Which matrices may freeze: see `gradestop.units.find_units`.
        validate: A function that gives the validation loss, for the methods that ask for it.
        freeze_every: Steps between changes of ``requires_grad``, each of which costs a compiled graph or a rebuilt DDP. A frozen matrix
            does not move in between either. Default: 1, or 20 where the model is compiled or under DDP.

    Raises:
        ValueError: with one sentence about what cannot be used, and the way out.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any,
        *,
        total_steps: int,
        config: GradESConfig | None = None,
        epoch_steps: int | None = None,
        warmup_steps: int = 0,
        seed: int = 0,
        units: Any = None,
        validate: Callable[[], float] | None = None,
        freeze_every: int | None = None,
    ) -> None:
        self.model, self.config, self.validate = model, config or GradESConfig(), validate
        self.optimizer = distributed.unwrap_optimizer(optimizer)
        distributed.check(model, self.optimizer)
        if getattr(self.optimizer, "_gradestop", None) is not None:
            raise ValueError("this optimizer is watched already; use one GradES for one run")
        self.group = distributed.Group(model)
        self.compiled = distributed.is_compiled(model)
        self.units: list[Unit] = find_units(model, units, self.config.split_fused and not self.group.is_sharded)
        self._by_name = {unit.name: unit for unit in self.units}
        self.policy = _core.Policy(
            self.config.to_json(), [unit.name for unit in self.units], total_steps, warmup_steps, epoch_steps, seed
        )
        if self.policy.needs_lora and any(len(unit.parts) < 2 for unit in self.units):
            raise ValueError(f"`method: {self.policy.name}` is defined for LoRA adapters only; give the model some by PEFT, or choose another method")
        if self.policy.signal is not None:
            distributed.shards_norm(self.policy.signal[1], self.group._shards)
        self.total_steps, self.epoch_steps = total_steps, epoch_steps
        if freeze_every is None:
            freeze_every = 20 if self.compiled or self.group.ddp is not None else 1
        self.freezing = Freezing(self.optimizer, max(1, freeze_every))
        self._companions = Companions(model, self.units)
        self._gains = Gains(model, self.optimizer, self.units, self.freezing)
        if self.config.weighs and not self._gains.are_told:
            raise ValueError(f"`method: {self.policy.name}` is to choose matrices by their gains, which only AdamW tells; use AdamW, or leave out `freeze` and `memory`")
        #: Steps made.
        self.step = 0
        #: Why training ended, once it has.
        self.stopped_by: str | None = None
        self.record = Record(self.policy, [unit.name for unit in self.units], total_steps, self.config)
        self._kept: dict[str, Tensor] = {}
        self._kept_norms: dict[str, float] = {}
        #: What the kept gradients were multiplied by after they were measured.
        self._kept_scale = 1.0
        self._weights: dict[str, Tensor] = {}
        self._best: dict[str, Tensor] = {}
        self._measured: Measured | None = None
        self._waiting: tuple[int, Any, Measured] | None = None
        self._before: list[tuple[nn.Parameter, Tensor, float]] = []
        self._seconds = time.perf_counter()
        #: Seconds spent here, in all.
        self.monitor_seconds = 0.0
        self._clock_of_step = 0.0
        self._losses = _Losses()
        self._loss_of_step: float | None = None
        pre, post = self.optimizer.register_step_pre_hook, self.optimizer.register_step_post_hook
        self._hooks = [pre(self._before_step), post(self._after_step)]
        if self._repeats:
            self._hooks.append(model.register_forward_hook(self._losses, with_kwargs=True))
        self.optimizer._gradestop = self
        self._apply(self.policy.in_force())
        wants = self.policy.wants(0)
        if not wants.idle:
            self._end_of_step(0, wants, Measured())

    # What is known

    @property
    def should_stop(self) -> bool:
        """Whether training is over."""
        return self.stopped_by is not None

    @property
    def frozen(self) -> list[str]:
        """The names of the frozen matrices."""
        return self.policy.frozen()

    @property
    def events(self) -> list[dict[str, Any]]:
        """What was decided, each as a line of ``events.jsonl``: ``{"event": "freeze", "step": 7, "unit": "language.3.q", …}``."""
        return self.record.events

    @property
    def kept_bytes(self) -> int:
        """Memory of gradients and weights that are kept for comparison."""
        return sum(t.numel() * t.element_size() for kept in (self._kept, self._weights) for t in kept.values())

    def log(self, *, loss: float | None = None, tokens: int | None = None, val_loss: float | None = None) -> None:
        """Adds to the record of the last step what this loop knows of it."""
        self.record.log(loss=loss, tokens=tokens, val_loss=val_loss)

    def save_run(self, path: str) -> None:
        """Writes the run so far as a run directory, which ``grades report`` and `load_run` read. The folder must be new or empty."""
        self.record.save(path, self)

    def report(self, path: str) -> None:
        """Writes the report of the run so far as one HTML file. Only an older report is replaced."""
        self.record.report(path, self)

    # The training loss

    def observe_loss(self, loss: Any) -> None:
        """Tells the mean training loss per predicted token of a pass: for loops whose model does not return it. Where gradients are
        accumulated, call it once a pass. A tensor is read with the next step."""
        if self._repeats:
            self._losses.add(torch.as_tensor(loss), False)

    def _training_loss(self, wants: Any) -> float | None:
        """The mean loss over the passes of a step and over all processes, read from the device where the step is observed."""
        loss = self._losses.take()
        if wants.idle or not self._repeats:
            return None
        loss = float(self.group.mean(loss.to(self._parameters()[0].device)))
        return loss if math.isfinite(loss) else None

    # Before the optimizer's step

    def clip_grad_norm_(self, max_norm: float) -> float:
        """Measures, then scales all gradients so that their common Frobenius norm is at most ``max_norm``, as
        ``torch.nn.utils.clip_grad_norm_`` does. Returns the norm before. Call it once all gradients of a step are there.
        """
        measured = self._measure(self.step + 1, max_norm)
        scale = min(1.0, max_norm / (measured.total + 1e-6))
        if scale < 1.0:
            gradients = [parameter.grad for parameter in self._parameters() if parameter.grad is not None]
            torch._foreach_mul_(gradients, scale)
            measured.scale = scale
        return measured.total

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def _training(self) -> list[tuple[Unit, list[tuple[str, Part]]]]:
        """The units that train, each with its tensors that do, by their keys."""
        units = []
        for unit in self.units:
            parts = [(f"{unit.name}#{i}", part) for i, part in enumerate(unit.parts) if not self.freezing.is_frozen(part)]
            if parts:
                units.append((unit, parts))
        return units

    @torch.no_grad()
    def _measure(self, step: int, max_norm: float | None = None) -> Measured:
        """One look at all gradients, and one read from the device."""
        if self._measured is not None:
            return self._measured
        clock = time.perf_counter()
        self.freezing.before_measuring()
        wants = self.policy.wants(step)
        measured = self._measured = Measured()
        scalars: list[Tensor] = []
        keys: list[tuple[str, Any]] = []

        def take(kind: str, of: Any, values: list[Tensor]) -> None:
            scalars.extend(values)
            keys.extend((kind, key) for key in of)

        training = [(key, part) for _, parts in self._training() for key, part in parts] if wants.measure_gradients else []
        training = [(key, part) for key, part in training if part.parameter.grad is not None]
        now = {key: part.of(part.parameter.grad) for key, part in training}
        norms = dict(zip(now, measure.norms(list(now.values()), wants.norm)))
        take("norm", norms, list(norms.values()))
        compared = [key for key in now if key in self._kept]
        known = [key for key in compared if key in self._kept_norms] if wants.norm == "frobenius" else []
        squares = {key: (norms[key], self._kept_norms[key] ** 2) for key in known}
        pairs = [measure.Pair(now[key], self._kept[key], 1.0 / self._kept_scale, squares.get(key)) for key in compared]
        take("change", compared, measure.changes(pairs, wants.norm))
        if max_norm is not None:
            known = {part.parameter for _, part in training if part.whole} if wants.norm == "frobenius" else set()
            rest = [p for p in self._parameters() if p.grad is not None and p not in known]
            take("rest", rest, measure.squares([p.grad for p in rest]))
        if wants.gain and self._gains_matter:
            updates = self._gains.last_updates()
            take("gain", [p for p, _ in updates], measure.gains([update for _, update in updates]))
        if not scalars:
            return measured
        values = torch.stack([scalar.to(torch.float32) for scalar in scalars])
        squares = 0.0
        parts = {key: part for key, part in training}
        for (kind, key), value in zip(keys, self.group.sum(values).tolist()):
            if kind == "norm":
                measured.norms[key] = measure.finish(value, wants.norm)
                squares += value if wants.norm == "frobenius" and parts[key].whole else 0.0
            elif kind == "change":
                measured.changes[key] = measure.finish(value, wants.norm)
            elif kind == "rest":
                squares += value
            else:
                measured.gains[key] = value
        measured.total = squares**0.5
        self._clock_of_step += time.perf_counter() - clock
        return measured

    @property
    def _repeats(self) -> bool:
        """Whether samples come again."""
        return self.epoch_steps is not None and self.epoch_steps < self.total_steps

    @property
    def _gains_matter(self) -> bool:
        """Gains count once data repeat, and where they choose single matrices."""
        return self._repeats or self.config.weighs

    @torch.no_grad()
    def _before_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if self.should_stop:
            return
        step = self.step + 1
        wants = self.policy.wants(step)
        measured = self._measure(step)
        clock = time.perf_counter()
        self._loss_of_step = self._training_loss(wants)
        if not wants.idle and not wants.after_update:
            self._decide(step, self._observation(wants, measured), measured)
        self.freezing.before_update()
        self._before = self._slowed(step)
        self._clock_of_step += time.perf_counter() - clock

    def _slowed(self, step: int) -> list[tuple[nn.Parameter, Tensor, float]]:
        """Parameters whose learning rate the method multiplies, with a copy of them before the step."""
        slowed = []
        for tower, layer in self._companions.layers:
            factor = self.policy.rate_factor(step, tower, layer)
            if factor != 1.0:
                of = self._companions.parameters(tower, layer)
                slowed.extend((p, p.detach().clone(), factor) for p in of if p.grad is not None)
        return slowed

    def _observation(self, wants: Any, measured: Measured, validation_loss: float | None = None) -> dict[str, Any]:
        measurements, gradients, weights = [], [], []
        for unit, parts in self._training():
            keys = [key for key, _ in parts]
            measurements.append((unit.name, [measured.of(key, self._kept_norms) for key in keys]))
        if wants.gradients:
            for unit in self.units:
                for i, part in enumerate(unit.parts):
                    if part.parameter.grad is not None and not self.freezing.is_frozen(part):
                        gradients.append((unit.name, i, _bytes(part.of(part.parameter.grad) / measured.scale)))
        if wants.weights:
            weights = [(u.name, i, _bytes(p.of(p.parameter))) for u in self.units for i, p in enumerate(u.parts)]
        seconds = time.perf_counter() - self._seconds
        return dict(
            measurements=measurements, gradients=gradients, weights=weights, training_loss=self._loss_of_step,
            validation_loss=validation_loss, seconds=seconds,
        )

    def _decide(self, step: int, observation: dict[str, Any], measured: Measured) -> None:
        decision = self.policy.observe(step, **observation)
        self._apply(decision)
        self.record.decision(decision)
        if decision.stop is not None:
            self.stopped_by = decision.stop

    @torch.no_grad()
    def _apply(self, decision: Any) -> None:
        parts_of = lambda name: (*self._by_name[name].parts, *self._by_name[name].others)  # noqa: E731
        frozen = [part for name in decision.freeze for part in parts_of(name)]
        frozen += [self._by_name[name].parts[part] for name, part in decision.freeze_parts]
        frozen += [part for companion in decision.freeze_companions for part in self._companions.of(*companion)]
        thawed = [part for name in decision.unfreeze for part in parts_of(name)]
        thawed += [part for companion in decision.unfreeze_companions for part in self._companions.of(*companion)]
        self.freezing.freeze(frozen)
        self.freezing.unfreeze(thawed)
        for name, part, keep in decision.masks:
            self.freezing.mask(self._by_name[name].parts[part], keep)
        for key in [key for key in (*self._kept, *self._weights) if self._is_frozen(key)]:
            self._kept.pop(key, None), self._weights.pop(key, None), self._kept_norms.pop(key, None)
        for part in frozen:
            if part.parameter in self.freezing.frozen:
                self._gains.forget(part.parameter)
        if thawed:
            self._settle(force=True)
        if decision.save_best:
            self._best = {name: p.detach().clone() for name, p in self.model.named_parameters() if p.requires_grad}
        if decision.restore_best:
            for name, parameter in self.model.named_parameters():
                if name in self._best:
                    parameter.detach().copy_(self._best[name])

    def _is_frozen(self, key: str) -> bool:
        name, _, part = key.rpartition("#")
        return self.freezing.is_frozen(self._by_name[name].parts[int(part)])

    def _settle(self, force: bool = False) -> None:
        if not self.freezing.settle(self.step, force):
            return
        if self.group.ddp is not None:
            distributed.rebuild(self.group.ddp)
        if self.compiled:
            distributed.reset_graphs()

    # After it

    @torch.no_grad()
    def _after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if self._measured is None:
            return
        step = self.step + 1
        wants = self.policy.wants(step)
        measured, self._measured = self._measured, None
        clock = time.perf_counter()
        self.freezing.after_update()
        for parameter, before, factor in self._before:
            parameter.detach().copy_(torch.lerp(before, parameter.detach(), factor))
        self._before = []
        self._gains.updated()
        if measured.gains:
            self.policy.observe_gains(step, *self._gains.by_unit(self._training(), measured))
        self.step = step
        self._end_of_step(step, wants, measured)
        self._settle()
        self._clock_of_step += time.perf_counter() - clock
        self.monitor_seconds += self._clock_of_step
        rate = self.optimizer.param_groups[0]["lr"] if self.optimizer.param_groups else 0.0
        self.record.step(
            step, float(rate), measured.total or None, time.perf_counter() - self._seconds, self._clock_of_step,
            len(self.policy.frozen()), self.kept_bytes,
        )
        self._clock_of_step = 0.0

    @torch.no_grad()
    def _end_of_step(self, step: int, wants: Any, measured: Measured) -> None:
        if wants.measure_weights:
            self._measure_weights(wants.norm, measured)
        if wants.after_update:
            if wants.validation_loss and self.validate is None:
                if step > 0:
                    self._waiting = (step, wants, measured)
                    self._keep(wants, measured)
                    return
                loss = None
            else:
                loss = float(self.validate()) if wants.validation_loss else None
            if loss is not None:
                self.record.log(val_loss=loss)
            self._decide(step, self._observation(wants, measured, loss), measured)
        self._keep(wants, measured)

    @property
    def wants_validation(self) -> bool:
        """Whether the method waits for the validation loss of the last step, and there is no ``validate``: `observe_validation`."""
        return self._waiting is not None

    @torch.no_grad()
    def observe_validation(self, loss: float) -> None:
        """Gives the validation loss that the method waits for."""
        if self._waiting is None:
            return
        (step, wants, measured), self._waiting = self._waiting, None
        self._decide(step, self._observation(wants, measured, float(loss)), measured)

    def _measure_weights(self, norm: str, measured: Measured) -> None:
        kept = [(key, part) for _, parts in self._training() for key, part in parts if key in self._weights]
        pairs = [measure.Pair(part.of(part.parameter.detach()), self._weights[key]) for key, part in kept]
        if pairs:
            values = self.group.sum(torch.stack(measure.changes(pairs, norm))).tolist()
            measured.weights.update((key, measure.finish(value, norm)) for (key, _), value in zip(kept, values))

    def _keep(self, wants: Any, measured: Measured) -> None:
        """Takes the gradients' own buffers; copies only where these are DDP's."""
        kept: dict[str, Tensor] = {}
        shared = self.group.ddp is not None and self.group.ddp.gradient_as_bucket_view
        for unit, parts in self._training():
            for key, part in parts:
                if wants.keep_gradient and part.parameter.grad is not None:
                    gradient = part.of(part.parameter.grad)
                    kept[key] = gradient.clone() if shared else gradient
                if wants.keep_weight:
                    self._weights[key] = part.of(part.parameter.detach()).clone()
        if kept and not shared:
            for parameter in {part.parameter for unit, parts in self._training() for _, part in parts}:
                # Else the next `zero_grad(set_to_none=False)` would clear what is kept.
                parameter.grad = None
        self._kept = kept
        self._kept_norms = {key: measured.norms[key] for key in kept if key in measured.norms}
        self._kept_scale = measured.scale

    # Going on from a checkpoint

    def state_dict(self) -> dict[str, Any]:
        """What must be saved to decide, after `load_state_dict`, as if never interrupted, bit for bit: tensors and plain values."""
        policy, buffers = self.policy.state()
        return {
            "version": _VERSION,
            "step": self.step,
            "stopped_by": self.stopped_by,
            "policy": policy,
            "buffers": {name: torch.frombuffer(bytearray(data), dtype=torch.float32) for name, data in buffers.items()},
            "kept": {key: local(tensor).clone() for key, tensor in self._kept.items()},
            "kept_norms": dict(self._kept_norms),
            "kept_scale": self._kept_scale,
            "weights": {key: local(tensor).clone() for key, tensor in self._weights.items()},
            "best": {name: local(tensor) for name, tensor in self._best.items()},
            "last": self._gains.state(),
            "record": self.record.state(),
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from `state_dict`. The weights and the optimizer's state are the caller's to load, before or after.

        Raises:
            ValueError: if the state is of another method, model or run.
        """
        if state.get("version") != _VERSION:
            raise ValueError(f"the state is of version {state.get('version')} and not {_VERSION}; begin the run anew")
        self.policy.restore(state["policy"], {name: bytes(t.numpy().tobytes()) for name, t in state["buffers"].items()})
        self.step, self.stopped_by = int(state["step"]), state["stopped_by"]
        self._apply(self.policy.in_force())
        self._settle(force=True)
        parts = {f"{unit.name}#{i}": part for unit in self.units for i, part in enumerate(unit.parts)}
        unknown = next((key for key in (*state["kept"], *state["weights"]) if key not in parts), None)
        if unknown is not None:
            raise ValueError(f"the state keeps a gradient of {unknown}, which this model has not; resume with the same model and `units`")
        self._kept = {key: _like(tensor, parts[key]) for key, tensor in state["kept"].items()}
        self._weights = {key: _like(tensor, parts[key]) for key, tensor in state["weights"].items()}
        self._kept_norms, self._kept_scale = dict(state["kept_norms"]), float(state["kept_scale"])
        named = dict(self.model.named_parameters())
        self._best = {name: _like(tensor, Part(name, named[name])) for name, tensor in state["best"].items()}
        self._gains.load(state["last"])
        self.record.load(state["record"])

    def detach(self) -> None:
        """Takes the hooks off the optimizer, and lets go of everything kept. What is frozen stays frozen."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._settle(force=True)
        self._kept.clear(), self._weights.clear(), self._best.clear()
        self.optimizer._gradestop = None


def _like(tensor: Tensor, part: Part) -> Tensor:
    """A tensor as it was kept: on the device of its parameter, and a shard where that is one."""
    tensor = tensor.to(part.parameter.device)
    mesh = getattr(part.parameter, "device_mesh", None)
    if mesh is None:
        return tensor
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(tensor, mesh, part.parameter.placements, shape=part.parameter.shape, stride=part.parameter.stride())


def _bytes(tensor: Tensor) -> bytes:
    tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes()
