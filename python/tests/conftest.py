"""Tiny models for all tests. Without PyTorch the tests that need it are skipped, and say so."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

from gradestop import ToolError, tool

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

try:
    import torch

    torch.set_num_threads(1)
except ImportError:
    torch = None

collect_ignore = [] if torch else ["test_loop.py", "test_trainer.py", "test_units.py", "test_distributed.py", "test_nets.py", "test_measure.py", "test_docs.py"]


def pytest_report_header() -> str:
    return "" if torch else "PyTorch is not installed: the tests of training loops are skipped"


@pytest.fixture
def tiny_llama():
    """A llama of two layers, the same each time, with its own seed: ``tiny_llama()``."""
    transformers = pytest.importorskip("transformers")

    def make(layers: int = 2, **options):
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=layers, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=False, attn_implementation="eager", **options,
        )
        return transformers.LlamaForCausalLM(config)

    return make


@pytest.fixture
def tokens():
    """Rows of tokens that can be learnt: each counts up from somewhere, with a little noise."""

    def make(rows: int = 64, length: int = 12, noise: float = 0.2, seed: int = 1):
        generator = torch.Generator().manual_seed(seed)
        start = torch.randint(0, 64, (rows, 1), generator=generator)
        row = (start + torch.arange(length)) % 64
        wrong = torch.rand(row.shape, generator=generator) < noise
        return torch.where(wrong, torch.randint(0, 64, row.shape, generator=generator), row)

    return make


def need_program():
    try:
        return tool.program()
    except ToolError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory):
    """The small model that the program brings along, and its config."""
    need_program()
    folder = tmp_path_factory.mktemp("quickstart") / "qs"
    process = subprocess.Popen([tool.program(), "quickstart", "--out", str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not (folder / "config.yaml").is_file() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    process.communicate()
    return folder
