"""GradES as a callback of transformers' Trainer."""

from __future__ import annotations

import json

import pytest
import torch

transformers = pytest.importorskip("transformers")

from gradestop import load_run, tool  # noqa: E402
from gradestop.transformers import (  # noqa: E402
    GradESCallback,
    GradESConfig,
    GradEarlyStoppingCallback,
    GradEarlyStoppingConfig,
    VLMGradEarlyStoppingConfig,
)

NUMBER = dict(tau=0.72, signal="relative_gradient_change", alpha=0.2, norm="frobenius")


def make(model, rows, folder, callback=None, evaluate=False, **options):
    """A Trainer over rows of tokens in their order."""
    options = {
        "per_device_train_batch_size": 8, "num_train_epochs": 10, "learning_rate": 3e-3, "weight_decay": 0.01, "report_to": [],
        "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1, "seed": 0, "use_cpu": True, "train_sampling_strategy": "sequential",
        **options,
    }
    known = transformers.TrainingArguments.__dataclass_fields__
    options = {key: value for key, value in options.items() if key in known}
    args = transformers.TrainingArguments(output_dir=str(folder), **options)
    data = [{"input_ids": row.tolist(), "labels": row.tolist()} for row in rows]
    collate = lambda batch: {key: torch.tensor([row[key] for row in batch]) for key in batch[0]}  # noqa: E731
    return transformers.Trainer(
        model, args, train_dataset=data, eval_dataset=data[:8] if evaluate else None, data_collator=collate,
        callbacks=[callback] if callback else [],
    )


def test_auto_ends_training(tiny_llama, tokens, tmp_path):
    callback = GradESCallback(run_dir=tmp_path / "run")
    trainer = make(tiny_llama(), tokens(32), tmp_path / "out", callback, num_train_epochs=60)
    trainer.train()
    assert callback.stopper.stopped_by == "all_frozen" and trainer.state.global_step == callback.stopper.step < 240
    run = load_run(tmp_path / "run")
    assert len(run.frozen_at) == 14 and run.summary["stopped_by"] == "all_frozen" and run.steps[3]["loss"] > 0
    assert trainer.args.max_grad_norm == 1.0
    assert all(log["grad_norm"] > 0 for log in trainer.state.log_history if "grad_norm" in log)


@pytest.mark.slow
@pytest.mark.parametrize("tau", ["auto", 0.72])
def test_resumes_bit_for_bit(tiny_llama, tokens, tmp_path, tau):
    rows = tokens(32)
    config = GradESConfig() if tau == "auto" else GradESConfig(**NUMBER, trace=True)
    options = dict(num_train_epochs=20, save_strategy="steps", save_steps=13, lr_scheduler_type="constant" if tau == "auto" else "linear")
    whole = GradESCallback(config)
    make(tiny_llama(), rows, tmp_path / "a", whole, **options).train()
    stopped_at = whole.stopper.step
    assert stopped_at > 13
    resumed = GradESCallback(config)
    model = tiny_llama()
    trainer = make(model, rows, tmp_path / "a", resumed, **options)
    trainer.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-13"))
    assert resumed.stopper.events == whole.stopper.events and trainer.state.global_step == stopped_at
    assert resumed.stopper.record.signals == whole.stopper.record.signals
    # Without what was decided by then the run does not go on as if nothing had been.
    (tmp_path / "a" / "checkpoint-13" / "gradestop-0.json").unlink()
    with pytest.raises(ValueError, match="resume_from"):
        make(tiny_llama(), rows, tmp_path / "a", GradESCallback(config), **options).train(
            resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-13")
        )


def test_same_as_the_program(tiny_llama, tokens, tmp_path):
    """The same llama over the same rows in the same order: the same signals and the same steps of freezing as ``grades train``."""
    try:
        tool.program()
    except tool.ToolError as error:
        pytest.skip(str(error))
    folder, data, rows, epochs = tmp_path / "model", tmp_path / "rows.jsonl", tokens(64, 12), 6
    model = tiny_llama().float()
    model.save_pretrained(folder)
    _word_tokenizer(folder)
    data.write_text("".join(json.dumps({"text": " ".join(f"w{t}" for t in row.tolist())}) + "\n" for row in rows))
    options = dict(
        model=str(folder), datasets=[{"path": str(data), "type": "text"}], sequence_len=12, num_epochs=epochs, learning_rate=3e-3,
        lr_scheduler="constant", weight_decay=0.01, max_grad_norm=1.0, seed=0, precision="f32", val_set_size=0, weight_average="none",
        early_stopping={"method": "grades", **NUMBER, "trace": True},
    )
    # Which row comes when: at a learning rate of nearly nothing, a row a step, its loss tells which it is.
    slow = {**options, "learning_rate": 1e-30, "early_stopping": "none"}
    alone = tool.train(slow, progress=False, micro_batch_size=1, output_dir=str(tmp_path / "order"))
    with torch.no_grad():
        known = torch.stack([model(input_ids=row[None], labels=row[None]).loss for row in rows]).double()
    order = [int((known - step["loss"]).abs().argmin()) for step in alone.steps]
    assert all(sorted(order[i : i + 64]) == list(range(64)) for i in range(0, len(order), 64))

    run = tool.train(options, progress=False, micro_batch_size=8, output_dir=str(tmp_path / "run"))
    callback = GradESCallback(GradESConfig(**NUMBER, trace=True))
    # One long epoch in that order.
    trainer = make(
        tiny_llama(), rows[order], tmp_path / "out", callback, num_train_epochs=1, lr_scheduler_type="constant", adam_beta2=0.999,
    )
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert len(losses) == len(run.steps)
    assert losses == pytest.approx([step["loss"] for step in run.steps], rel=1e-4, abs=1e-4)
    ours, compared, largest = dict(callback.stopper.record.signals), 0, 0.0
    for line in run.signals:
        assert ours[line["step"]].keys() == line["signals"].keys()
        for unit, value in line["signals"].items():
            assert ours[line["step"]][unit] == pytest.approx(value, rel=1e-5), (line["step"], unit)
            compared, largest = compared + 1, max(largest, abs(ours[line["step"]][unit] / value - 1))
    steps = {event["unit"]: event["step"] for event in callback.stopper.events if event["event"] == "freeze"}
    print(f"{compared} signals of {len(run.steps)} steps, largest relative difference {largest:.1e}; {len(steps)} freezes at the same steps")
    assert compared > 100 and steps == run.frozen_at and len(steps) > 3


def _word_tokenizer(folder):
    """A tokenizer with the words w0 to w63, for the program."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(64)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0").save_pretrained(folder)


@pytest.mark.slow
def test_validation_loss_as_method(tiny_llama, tokens, tmp_path):
    config = GradESConfig(method="validation_loss")
    callback = GradESCallback(config)
    trainer = make(tiny_llama(), tokens(32), tmp_path, callback, evaluate=True, learning_rate=0.0)
    trainer.train()
    assert any("eval_loss" in log for log in trainer.state.log_history)
    assert callback.stopper.stopped_by == "validation_loss" and trainer.state.global_step < 40


def test_the_names_of_the_papers_package(tiny_llama, tokens, tmp_path):
    config = GradEarlyStoppingConfig(tau=1e9, alpha=0.5, max_frozen_ratio=1.0, compute_interval=1, target_components=["q_proj", "v_proj"])
    assert config.options["signal"] == "weight_change" and config.options["alpha"] == 0.5
    callback = GradEarlyStoppingCallback(config)
    trainer = make(tiny_llama(), tokens(32), tmp_path, callback)
    trainer.train()
    # Under a threshold that all pass, everything freezes at the first step after the grace period.
    assert sorted(callback.stopper.frozen) == ["language.0.q", "language.0.v", "language.1.q", "language.1.v"]
    assert trainer.state.global_step == 21
    both = VLMGradEarlyStoppingConfig(vision_tau=0.1, language_tau=0.2)
    assert both.options["tau"]["vision"] == 0.1 and both.options["tau"]["language"] == 0.2


@pytest.mark.slow
def test_adapters_of_peft(tiny_llama, tokens, tmp_path):
    peft = pytest.importorskip("peft")
    for dora in (False, True):
        model = peft.get_peft_model(
            tiny_llama(),
            peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], use_dora=dora, modules_to_save=["lm_head"]),
        )
        callback = GradESCallback(GradESConfig(**{**NUMBER, "tau": 0.6}))
        make(model, tokens(32), tmp_path / str(dora), callback, num_train_epochs=15).train()
        stopper = callback.stopper
        assert sorted(unit.name for unit in stopper.units) == ["language.0.down", "language.0.q", "language.1.down", "language.1.q"]
        assert all(len(unit.parts) == 2 for unit in stopper.units) and stopper.frozen
        for unit in stopper.units:
            for part in (*unit.parts, *unit.others):
                assert part.parameter.requires_grad == (unit.name not in stopper.frozen), part.name
            assert len(unit.others) == dora


@pytest.mark.slow
def test_a_second_callback_is_refused(tiny_llama, tokens, tmp_path):
    trainer = make(tiny_llama(), tokens(32), tmp_path, GradESCallback())
    trainer.add_callback(GradESCallback())
    with pytest.raises(ValueError, match="watched already"):
        trainer.train()


@pytest.mark.slow
def test_trl(tiny_llama, tokens, tmp_path):
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "model"
    _word_tokenizer(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token = "w63"
    text = [" ".join(f"w{t}" for t in row.tolist()) for row in tokens(32)]
    callback = GradESCallback(GradESConfig(**NUMBER))
    trainer = trl.SFTTrainer(
        tiny_llama(),
        args=trl.SFTConfig(
            output_dir=str(tmp_path / "out"), max_steps=30, per_device_train_batch_size=8, report_to=[], save_strategy="no", use_cpu=True,
            disable_tqdm=True, learning_rate=3e-3, bf16=False, max_length=16,
        ),
        train_dataset=datasets.Dataset.from_dict({"text": text}),
        processing_class=tokenizer,
        callbacks=[callback],
    )
    trainer.train()
    assert callback.stopper.step == trainer.state.global_step and callback.stopper.frozen


@pytest.mark.slow
def test_through_accelerate(tiny_llama, tokens, tmp_path):
    accelerate = pytest.importorskip("accelerate")
    from gradestop import GradES

    def run(steps, folder=None, resume=False):
        accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
        model = tiny_llama()
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        model, optimizer = accelerator.prepare(model, optimizer)
        stopper = GradES(model, optimizer, total_steps=30, config=GradESConfig(**NUMBER))
        accelerator.register_for_checkpointing(stopper)
        if resume:
            accelerator.load_state(folder)
        rows = tokens(64)
        for micro in range(2 * stopper.step, 2 * steps):
            ids = rows[micro * 4 % 64 :][:4]
            with accelerator.accumulate(model):
                accelerator.backward(model(input_ids=ids, labels=ids).loss)
                optimizer.step()
                optimizer.zero_grad()
        if folder and not resume:
            accelerator.save_state(folder)
        return stopper

    whole = run(30)
    assert whole.step > 12 and whole.frozen
    half = run(12, str(tmp_path / "state"))
    assert half.step == 12
    resumed = run(30, str(tmp_path / "state"), resume=True)
    assert resumed.events == whole.events and resumed.record.signals == whole.record.signals
