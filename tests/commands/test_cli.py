"""The command line itself: help without waiting, unknown words, Hydra's own flags."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from tapetum.cli import VERBS, main
from tapetum.commands.help import COMPOSING

from commands.experiments import in_process, run


@pytest.mark.parametrize(
    "words", [["--help"], *([verb, "--help"] for verb in VERBS)], ids=lambda words: words[0]
)
def test_help_answers_in_half_a_second(words):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "tapetum", *words], capture_output=True, text=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5
    assert words[0].strip("-") in done.stdout or words[0] == "--help"
    if words[0] in ("--help", *COMPOSING):
        assert "efficientnet_b0" in done.stdout
        assert "trainer.max_epochs" in done.stdout


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from tapetum.cli import main; main(['--help']); main(['train', '--help']);"
        "sys.exit(','.join(m for m in ('torch', 'hydra', 'lightning', 'numpy', 'rich') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == "\n", done.stderr


PROGRAM = """
import atexit, threading, time
import tapetum.commands.tiny as tiny
from tapetum.cli import program
def main(arguments):
    threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
    atexit.register(print, "exit")
    print("main")
    return 1 // (arguments != ["0"]) + 4
tiny.main = main
"""


def test_a_process_ends_in_order_although_it_takes_nothing_apart():
    """What it says goes through a pipe, which is written at the end."""
    words = [sys.executable, "-c", f"{PROGRAM}program(['tiny', '1'])"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split(), done.stderr) == (5, ["main", "thread", "exit"], "")


def test_output_that_could_not_be_written_is_an_error():
    with Path("/dev/full").open("w") as full:
        said = "import tapetum.commands.tiny as tiny; tiny.main = lambda arguments: print('written') or 0;"
        words = [sys.executable, "-c", f"{said} from tapetum.cli import program; program(['tiny'])"]
        buffered = {**os.environ, "PYTHONUNBUFFERED": ""}  # so that it is written at the end
        done = subprocess.run(
            words, env=buffered, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr.startswith("error: the output could not be written: ")


def test_a_process_that_fails_shows_where_and_ends_in_order():
    words = [sys.executable, "-c", f"{PROGRAM}program(['tiny', '0'])"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (1, ["main", "thread", "exit"])
    assert done.stderr.startswith("Traceback (most recent call last):")
    assert done.stderr.endswith("ZeroDivisionError: integer division or modulo by zero\n")


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        ("trian", "unknown verb trian: did you mean train? verbs: "),
        ("frobnicate", "unknown verb frobnicate: verbs: "),
    ],
)
def test_an_unknown_verb_lists_the_verbs(capsys, verb, said):
    assert main([verb]) == 2
    assert capsys.readouterr().err == f"{said}{', '.join(VERBS)}\n"


def test_no_verb_is_help(capsys):
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("tapetum VERB")


def test_a_flag_that_nobody_knows_is_refused(capsys):
    assert run("train", "--epochs", "3") == 2
    assert (
        "unknown option --epochs: settings are given as key=value, without dashes" in capsys.readouterr().err
    )
    assert run("evaluate", "--fast") == 2
    assert "--fast is a flag, and there are none" in capsys.readouterr().err


def test_hydra_prints_the_composed_config():
    done = in_process("train", "--cfg", "job", "model=npr", "optimizer.lr=0.5")
    assert done.returncode == 0, done.stderr
    assert "  lr: 0.5\n" in done.stdout
    assert "tapetum.detectors.npr.NPR" in done.stdout


def test_hydra_installs_shell_completion():
    done = in_process("train", "-sc", "install=bash")
    assert done.returncode == 0, done.stderr
    assert "complete -o nospace" in done.stdout


def test_check_says_what_would_run(folder, capsys):
    words = ["model=small_resnet", "data=folder", f"data.root={folder}"]
    assert run("check", *words) == 0
    said = capsys.readouterr().out
    assert "effective batch" in said
    assert run("check", *words, "data.batch_size=x") == 2
