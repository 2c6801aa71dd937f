"""The program ``grades`` from Python.

It runs in a process of its own, so that Python's other threads go on, a run's memory is given back when it ends, and Ctrl-C ends it
as it does in a terminal. The program comes with ``pip install grades-cli``.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
from typing import Any, Iterable, Mapping

from .run import Run, load_run

__all__ = ["ToolError", "evaluate", "program", "train"]


class ToolError(RuntimeError):
    """What the program said when it could not do what it was asked."""


def program() -> str:
    """The path of ``grades``: ``GRADES_PROGRAM``, or beside this Python, or on the ``PATH``.

    Raises:
        ToolError: if there is none.
    """
    named = os.environ.get("GRADES_PROGRAM")
    if named:
        return named
    name = "grades.exe" if os.name == "nt" else "grades"
    for folder in (sysconfig.get_path("scripts"), os.path.dirname(sys.executable)):
        beside = os.path.join(folder, name)
        if os.access(beside, os.X_OK):
            return beside
    found = shutil.which("grades")
    if found is None:
        raise ToolError("the program `grades` is not installed: run `pip install grades-cli`, or set GRADES_PROGRAM to its path")
    return found


def train(config: str | os.PathLike[str] | Mapping[str, Any], *, progress: bool = True, **overrides: Any) -> Run:
    """Runs ``grades train``.

    Args:
        config: A config file, or its keys (paths in them are then taken from the working directory).
        progress: Shows the progress bar on standard error, or lines where that is no terminal, as in a notebook.
        overrides: Options in place of the config's, ``learning_rate=1e-5``; of a nested one with ``__`` for the dot:
            ``early_stopping__tau="auto"``.

    Returns:
        The run, read from its directory.

    Raises:
        ToolError: with the sentence that the program says.
        KeyboardInterrupt: at Ctrl-C, once the program has ended. Its checkpoints stay.
    """
    options = [f"{key.replace('__', '.')}={json.dumps(value, default=str)}" for key, value in overrides.items()]
    if not isinstance(config, Mapping):
        return load_run(_asked(["train", os.fspath(config), *options], progress)["run_dir"])
    # JSON is YAML.
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", dir=os.getcwd(), prefix=".gradestop-", delete=False) as file:
        json.dump(config, file, default=str)
    try:
        return load_run(_asked(["train", file.name, *options], progress)["run_dir"])
    finally:
        os.unlink(file.name)


def evaluate(
    model: str | os.PathLike[str],
    tasks: str | Iterable[str],
    *,
    adapter: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Any:
    """Runs ``grades eval``: the scores of a model on benchmarks, as ``grades eval --json`` says them.

    Args:
        model: A model's folder, GGUF file, or name on the Hugging Face Hub.
        tasks: Names of benchmarks, or files of questions.
        adapter: An adapter's folder.
        limit: Questions of each task at most.
        data_dir: Where the benchmarks lie as files, instead of on the Hub.
    """
    tasks = tasks if isinstance(tasks, str) else ",".join(tasks)
    asked = ["eval", "--model", os.fspath(model), "--tasks", tasks]
    for flag, value in (("--adapter", adapter), ("--limit", limit), ("--data-dir", data_dir)):
        asked += [] if value is None else [flag, os.fspath(value) if hasattr(value, "__fspath__") else str(value)]
    return _asked(asked, progress)


def _asked(arguments: list[str], progress: bool) -> Any:
    """What the program prints as JSON."""
    shows = progress and _is_terminal()
    # In a terminal the program draws its own bar; else its lines go where Python's standard error goes, which may be a notebook.
    process = subprocess.Popen(
        [program(), *arguments, "--json"],
        stdout=subprocess.PIPE,
        stderr=None if shows else subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    said: list[str] = []
    relay = None
    if process.stderr is not None:
        relay = threading.Thread(target=_relay, args=(process.stderr, said, progress), daemon=True)
        relay.start()
    try:
        out = process.stdout.read() if process.stdout else ""
        code = process.wait()
    except KeyboardInterrupt:
        _end(process)
        raise
    finally:
        if relay is not None:
            relay.join(timeout=5)
        if process.stdout:
            process.stdout.close()
    if code != 0:
        raise ToolError("\n".join(said[-5:]).strip() or f"grades ended with code {code}")
    return json.loads(out)


def _is_terminal() -> bool:
    try:
        return os.isatty(sys.stderr.fileno())
    except (AttributeError, OSError, ValueError):
        return False


def _relay(lines: Iterable[str], said: list[str], shows: bool) -> None:
    for line in lines:
        said.append(line.rstrip("\n"))
        if shows:
            print(line, end="", file=sys.stderr, flush=True)


def _end(process: "subprocess.Popen[str]") -> None:
    """Ends the program as Ctrl-C does in a terminal, and waits for it."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT if os.name != "nt" else signal.SIGTERM)
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
