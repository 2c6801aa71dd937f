"""GradES for transformers' ``Trainer`` and what builds on it: TRL, unsloth, axolotl, swift.

::

    from gradestop.transformers import GradESCallback, GradESConfig

    trainer = SFTTrainer(model, args=..., train_dataset=..., callbacks=[GradESCallback(GradESConfig(tau="auto"))])
    trainer.train()
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Sequence

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .config import GradESConfig
from .loop import GradES

__all__ = [
    "GradESCallback",
    "GradESConfig",
    "GradEarlyStoppingCallback",
    "GradEarlyStoppingConfig",
    "VLMGradEarlyStoppingCallback",
    "VLMGradEarlyStoppingConfig",
]

_STATE = "gradestop"


class GradESCallback(TrainerCallback):
    """Freezes each weight matrix when its gradient has stopped changing, and ends training when all are frozen.

    Clipping moves from the Trainer into this callback, with the same norm, so that gradients are measured before they are clipped. What
    is decided is saved with the Trainer's checkpoints, in files of its own, and ``trainer.train(resume_from_checkpoint=...)`` goes on
    with the same decisions, bit for bit.

    Args:
        config: The method and its options; GradES with ``tau="auto"`` where it is left out.
        units: Which matrices may freeze: see `gradestop.find_units`.
        run_dir: Where the run's directory is left at the end, for ``grades report`` and `gradestop.load_run`.
        resume_from: The checkpoint's folder, where it is not ``checkpoint-<step>`` in the Trainer's ``output_dir``.
        freeze_every: See `gradestop.GradES`.
    """

    def __init__(
        self,
        config: GradESConfig | None = None,
        *,
        units: Any = None,
        run_dir: str | os.PathLike[str] | None = None,
        resume_from: str | os.PathLike[str] | None = None,
        freeze_every: int | None = None,
    ) -> None:
        self.config = config or GradESConfig()
        self._units, self._run_dir, self._freeze_every = units, run_dir, freeze_every
        self._resume_from = resume_from
        self._max_grad_norm = 0.0
        #: The method at work, from the beginning of training on.
        self.stopper: GradES | None = None

    # The events of the Trainer, in their order.

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl | None:
        if getattr(args, "deepspeed", None):
            raise ValueError("DeepSpeed keeps gradients and optimizer states out of sight; train with DDP or FSDP2 to stop matrices by their gradients")
        if getattr(args, "fp16", False) and torch.cuda.is_available():
            raise ValueError("with `fp16` gradients are scaled while they are measured; use `bf16`, or f32")
        loader = kwargs.get("train_dataloader")
        self.stopper = GradES(
            kwargs["model"],
            kwargs["optimizer"],
            total_steps=state.max_steps,
            config=self.config,
            epoch_steps=_steps_per_epoch(loader, args),
            warmup_steps=args.get_warmup_steps(state.max_steps),
            seed=args.seed,
            units=self._units,
            freeze_every=self._freeze_every,
        )
        # Clipped here, after measuring.
        self._max_grad_norm, args.max_grad_norm = args.max_grad_norm or 0.0, 0.0
        if state.global_step > 0:
            self._resume(args, state)
        control.should_training_stop |= self.stopper.should_stop
        return control

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.stopper is not None and self._max_grad_norm > 0:
            self.stopper.clip_grad_norm_(self._max_grad_norm)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl | None:
        if self.stopper is None:
            return None
        control.should_training_stop |= self.stopper.should_stop
        control.should_evaluate |= self.stopper.wants_validation
        return control

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: dict[str, float] | None = None, **kwargs: Any
    ) -> TrainerControl | None:
        loss = (metrics or {}).get("eval_loss")
        if self.stopper is None or loss is None:
            return None
        self.stopper.log(val_loss=loss)
        self.stopper.observe_validation(loss)
        control.should_training_stop |= self.stopper.should_stop
        return control

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        if self.stopper is not None and logs:
            self.stopper.log(loss=logs.get("loss"))
            if "loss" in logs:
                logs["grades/frozen"] = float(len(self.stopper.frozen))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if self.stopper is not None and folder.is_dir() and (state.is_world_process_zero or self.stopper.group.is_sharded):
            _save(folder, self.stopper.state_dict(), self._rank())

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.stopper is None:
            return
        args.max_grad_norm = self._max_grad_norm
        if self._run_dir is not None and state.is_world_process_zero:
            self.stopper.save_run(os.fspath(self._run_dir))
        self.stopper.detach()

    def _rank(self) -> int:
        return self.stopper.group.rank if self.stopper is not None and self.stopper.group.is_sharded else 0

    def _resume(self, args: TrainingArguments, state: TrainerState) -> None:
        asked = [self._resume_from, args.resume_from_checkpoint, Path(args.output_dir) / f"checkpoint-{state.global_step}"]
        for folder in (Path(folder) for folder in asked if isinstance(folder, (str, os.PathLike))):
            saved = _load(folder, self._rank())
            if saved is not None and saved["step"] == state.global_step and self.stopper is not None:
                self.stopper.load_state_dict(saved)
                return
        raise ValueError(
            f"the run goes on from step {state.global_step}, but no checkpoint with what GradES had decided by then was found; give its "
            "folder as GradESCallback(resume_from=...)"
        )


def _steps_per_epoch(loader: Any, args: TrainingArguments) -> int | None:
    """Steps of the optimizer in one epoch, as the Trainer counts them; ``None`` where the loader has no length."""
    try:
        batches = len(loader)
    except TypeError:
        return None
    every = args.gradient_accumulation_steps
    return max(batches // every + int(batches % every > 0), 1)


def _save(folder: Path, state: dict[str, Any], rank: int) -> None:
    """Writes a state as JSON, with its tensors beside it."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    for group in ("buffers", "kept", "weights", "best"):
        tensors.update({f"{group}/{name}": tensor.contiguous() for name, tensor in state.pop(group).items()})
    name = f"{_STATE}-{rank}"
    save_file(tensors, folder / f"{name}.safetensors")
    # Last, and in one piece: it says that the tensors are there.
    temporary = folder / f".{name}.json"
    temporary.write_text(json.dumps(state), encoding="utf-8")
    temporary.replace(folder / f"{name}.json")


def _load(folder: Path, rank: int) -> dict[str, Any] | None:
    from safetensors.torch import load_file

    name = f"{_STATE}-{rank}"
    if not (folder / f"{name}.json").is_file():
        return None
    state: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    state.update({group: {} for group in ("buffers", "kept", "weights", "best")})
    for key, tensor in load_file(folder / f"{name}.safetensors").items():
        group, _, of = key.partition("/")
        state[group][of] = tensor
    return state


class GradEarlyStoppingConfig(GradESConfig):
    """The options of the paper's package under its names, with its defaults.

    It measures how far weights move, ‖W_t − W_{t−1}‖₁, which is what its thresholds belong to (`signal` chooses another). A first or
    failed measurement freezes nothing here.
    """

    def __init__(
        self,
        tau: Any = 1e-4,
        alpha: float = 0.3,
        max_frozen_ratio: float = 1.0,
        compute_interval: int = 1,
        target_components: Sequence[str] | None = None,
        auto_detect_mode: bool = True,
        use_cuda_acceleration: bool = True,
        save_freezing_history: bool = False,
        enable_wandb_logging: bool = False,
        output_dir: str | None = None,
        signal: str = "weight_change",
        **options: Any,
    ) -> None:
        if tau == "auto":
            super().__init__(tau, alpha=None, max_frozen_share=max_frozen_ratio, interval=compute_interval, **options)
        else:
            super().__init__(
                tau, signal=signal, norm="l1", alpha=alpha, max_frozen_share=max_frozen_ratio, interval=compute_interval, **options
            )
        self.target_components = list(target_components) if target_components is not None else None
        self.run_dir = output_dir if save_freezing_history else None

    @property
    def units(self) -> list[str] | None:
        """The same choice of matrices in the words of `gradestop.find_units`."""
        return None if self.target_components is None else [f"*.{name}" for name in self.target_components]


class VLMGradEarlyStoppingConfig(GradEarlyStoppingConfig):
    """The same with a threshold for each tower."""

    def __init__(
        self,
        vision_tau: float = 1e-5,
        language_tau: float = 1e-4,
        freeze_vision: bool = True,
        freeze_language: bool = True,
        **options: Any,
    ) -> None:
        options.pop("tau", None)
        super().__init__({"vision": vision_tau, "language": language_tau, "default": language_tau}, **options)
        self._towers = [name for name, freezes in (("vision", freeze_vision), ("language", freeze_language)) if freezes]

    @property
    def units(self) -> list[str] | None:
        if len(self._towers) == 2:
            return super().units
        named = self.target_components or ["*"]
        return [f"{tower}.*.{name.removesuffix('_proj')}" for tower in self._towers for name in named]


class GradEarlyStoppingCallback(GradESCallback):
    """`GradESCallback` under the name that the paper's package has for it."""

    def __init__(self, config: GradESConfig | None = None, **options: Any) -> None:
        config = config or GradEarlyStoppingConfig()
        options.setdefault("units", getattr(config, "units", None))
        options.setdefault("run_dir", getattr(config, "run_dir", None))
        super().__init__(config, **options)


class VLMGradEarlyStoppingCallback(GradEarlyStoppingCallback):
    """The same for models that read pictures."""

    def __init__(self, config: GradESConfig | None = None, **options: Any) -> None:
        super().__init__(config or VLMGradEarlyStoppingConfig(), **options)
