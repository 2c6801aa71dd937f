"""The program from Python, and what can be asked without PyTorch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

import gradestop
from gradestop import GradESConfig, ToolError, load_run


def test_nothing_of_pytorch_is_needed_to_import():
    code = "import sys, gradestop; gradestop.GradESConfig(); assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_options_are_those_of_the_program():
    config = GradESConfig({"vision": 0.3, "default": 6.0}, norm="l1", alpha=0.2)
    assert config.options["tau"] == {"default": 6.0, "vision": 0.3} and config.options["patience"] == 1
    assert GradESConfig.from_dict({"tau": "auto"}) == GradESConfig()
    for wrong, said in (({"tau": -1}, "tau"), ({"alhpa": 1}, "alhpa"), ({"method": "x"}, "validation_loss"), ({"patience": 0}, "patience")):
        with pytest.raises(ValueError, match=said):
            GradESConfig(**wrong)


def test_a_config_file(tmp_path):
    pytest.importorskip("yaml")
    path = tmp_path / "c.yaml"
    path.write_text("model: x\nearly_stopping:\n  method: grades\n  tau: 0.5\n  signal: gradient\n")
    assert GradESConfig.from_yaml(path).options["signal"] == "gradient"
    path.write_text("early_stopping: none\n")
    assert GradESConfig.from_yaml(path).method == "none"


def test_the_method_by_hand():
    policy = gradestop._core.Policy('{"method": "grades", "tau": 0.1, "alpha": 0.2, "norm": "l1"}', ["language.0.q", "language.0.down"], 10)
    gradient = lambda step: (1 / step, -1.0 if step % 2 else 1.0)  # noqa: E731
    for step in range(1, 5):
        now, before = gradient(step), gradient(step - 1) if step > 1 else (None, None)
        if not policy.wants(step).measure_gradients:
            continue
        measured = [
            (unit, [(abs(g), None if b is None else abs(b), None if b is None else abs(g - b), None)])
            for unit, g, b in zip(("language.0.q", "language.0.down"), now, before)
        ]
        decision = policy.observe(step, measured)
        # 1/3 − 1/4 = 0.083 < 0.1 for the first time.
        assert decision.freeze == (["language.0.q"] if step == 4 else []), step
    state, buffers = policy.state()
    other = gradestop._core.Policy(policy.options, ["language.0.q", "language.0.down"], 10)
    other.restore(state, buffers)
    assert other.frozen() == ["language.0.q"] and other.state() == (state, buffers)
    with pytest.raises(ValueError, match="names no matrix"):
        gradestop._core.Policy('{"method": "grades"}', ["q"], 10)


def test_train_evaluate_and_load(quickstart, tmp_path, capfd):
    run = gradestop.train(
        quickstart / "config.yaml", max_steps=6, output_dir=str(tmp_path / "run"), early_stopping__trace=True, logging_steps=1
    )
    assert len(run.steps) == 6 and run.summary["steps"] == 6 and run.signals
    assert "step 3/6" in capfd.readouterr().err
    assert "<svg" in run._repr_html_() and "6 steps" in repr(run)
    scores = gradestop.evaluate(
        tmp_path / "run" / "model", "multiple_choice", data_dir=quickstart / "data", limit=20, progress=False
    )
    assert scores
    with pytest.raises(ToolError, match="learning_rat"):
        gradestop.train(quickstart / "config.yaml", learning_rat=1, output_dir=str(tmp_path / "other"), progress=False)


@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
def test_ctrl_c_ends_the_program_and_other_threads_go_on(quickstart, tmp_path):
    code = (
        "import threading, time, gradestop\n"
        "ticks = []\n"
        "threading.Thread(target=lambda: [ticks.append(time.sleep(0.01)) for _ in range(10**6)], daemon=True).start()\n"
        "try: gradestop.train(%r, max_steps=100000, num_epochs=10000, output_dir=%r, early_stopping='none', progress=False)\n"
        "except KeyboardInterrupt: print('stopped', len(ticks))\n"
    ) % (str(quickstart / "config.yaml"), str(tmp_path / "long"))

    def heed():
        # What a shell has put into the background ignores Ctrl-C, and so do its children.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=heed
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "long" / "metrics.jsonl").is_file() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGINT)
    try:
        out, _ = process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        # It would train for hours.
        os.killpg(process.pid, signal.SIGKILL)
        raise
    said, ticks = out.split()
    assert said == "stopped" and int(ticks) > 10
    # Nothing of it is left.
    left = subprocess.run(["pgrep", "-s", str(process.pid)], capture_output=True, text=True)
    assert not left.stdout.strip()


def test_a_run_that_goes_on_or_is_damaged(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run"):
        load_run(tmp_path)
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 2.0}) + "\n" + '{"step": 2, "lo')
    assert [step["step"] for step in load_run(tmp_path).steps] == [1]
    (tmp_path / "metrics.jsonl").write_text('{"step": \n{"step": 2}\n')
    with pytest.raises(ValueError, match="line 1 of"):
        load_run(tmp_path)
