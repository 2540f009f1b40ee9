"""A run belongs to one process at a time, and to nobody once that process is gone."""

import subprocess
import sys

import pytest
from tapetum.errors import TapetumError
from tapetum.runs.directory import RunDirectory
from tapetum.runs.lock import held

HOLD = """
import sys, time
from pathlib import Path
from tapetum.runs.directory import RunDirectory
from tapetum.runs.lock import held
with held(RunDirectory(Path(sys.argv[1]))):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_run_that_another_process_holds_is_refused_until_that_process_is_dead(tmp_path):
    run = RunDirectory(tmp_path)
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        message = f"^{tmp_path} is in use: another process is training in it"
        with pytest.raises(TapetumError, match=message), held(run):
            pytest.fail("two processes in one run")
        other.kill()  # without a chance to clean up
    with held(run):
        pass
    with held(run):  # and it is let go of at the end
        pass
