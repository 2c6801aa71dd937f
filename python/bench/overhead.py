"""What the callback costs in a step of Trainer, against Trainer without it, in turn in one process.

    python python/bench/overhead.py MODEL [--rounds 2] [--steps 6] [--ways none,ours,gains,authors]

MODEL is a folder in the Hugging Face layout. `ours` is one epoch with `tau="auto"`; `gains` the same over repeated data, which also wants the gain of updates; `authors` the package `grades`
of PyPI with its defaults. All parameters train, f32, AdamW, batches of 4 rows of 256 tokens. Prints the median step of each way, and the
ratio to `none`; the first step of each round is left out.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

from gradestop import loop
from gradestop.transformers import GradESCallback, GradESConfig


class Clock(TrainerCallback):
    """Seconds of each step."""

    def __init__(self, now):
        self.now, self.seconds = now, []

    def on_step_begin(self, args, state, control, **kwargs):
        self.began = self.now()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds.append(self.now() - self.began)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--ways", default="none,ours,gains,authors")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true", help="counts processor time in place of time, for a machine that is not quiet")
    parser.add_argument("--wait", action="store_true", help="for a line on standard input, once the model is there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    now = time.process_time if options.cpu_time else time.perf_counter
    # The clock of the callback too.
    loop.time.perf_counter = now
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 40000, (4 * options.steps, 256), generator=generator).tolist()
    data = [{"input_ids": row, "labels": row} for row in rows]
    if options.wait:
        input("ready")

    def callback(way):
        if way in ("ours", "gains"):
            return GradESCallback(GradESConfig("auto"))
        if way == "authors":
            from grades import GradEarlyStoppingCallback, GradEarlyStoppingConfig

            return GradEarlyStoppingCallback(GradEarlyStoppingConfig(tau=1e-12, alpha=0.3))
        return None

    seconds = {way: [] for way in options.ways.split(",")}
    own = {way: [] for way in seconds}
    for _ in range(options.rounds):
        for way, all_of in seconds.items():
            model.requires_grad_(True)
            with tempfile.TemporaryDirectory() as folder:
                epochs = 2 if way == "gains" else 1
                args = TrainingArguments(
                    output_dir=folder, per_device_train_batch_size=4, num_train_epochs=epochs, learning_rate=1e-6, report_to=[],
                    save_strategy="no", use_cpu=True, disable_tqdm=True, logging_steps=1000, gradient_checkpointing=False,
                )
                clock, added = Clock(now), callback(way)
                used = data[: len(data) // epochs]
                trainer = Trainer(model, args, train_dataset=used, callbacks=[clock] + ([added] if added else []))
                trainer.train()
                all_of.extend(clock.seconds[1:])
                print(way, *(f"{one:.3f}" for one in clock.seconds), flush=True)
                if way in ("ours", "gains"):
                    steps = added.stopper.record.steps[1:]
                    own[way].extend(step["monitor_seconds"] for step in steps)
                del trainer
                model.zero_grad(set_to_none=True)
    none = statistics.median(seconds["none"]) if "none" in seconds else float("nan")
    for way, all_of in seconds.items():
        median = statistics.median(all_of)
        said = f"{way:8} {median:7.3f} s a step, {100 * (median / none - 1):+.2f} %"
        if own[way]:
            said += f"; in the callback {1000 * statistics.median(own[way]):.1f} ms, {100 * statistics.median(own[way]) / median:.2f} %"
        print(said, flush=True)


if __name__ == "__main__":
    main()
