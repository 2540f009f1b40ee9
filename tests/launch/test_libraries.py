"""What a command imports, while Python's collector rests."""

from __future__ import annotations

import gc
import subprocess
import sys

from tapetum.config.compose import compose
from tapetum.launch.libraries import importing, libraries_of, load_libraries

COUNTED = """
import gc, sys
from tapetum.launch.libraries import importing, load_libraries
with importing():
    print(gc.isenabled())
    import colorsys
print(gc.isenabled(), gc.get_freeze_count() > 1000)
load_libraries(["tapetum.nowhere", "colorsys"])
try:
    load_libraries(["nowhere"])
except ModuleNotFoundError as error:
    print(error)
print(gc.isenabled(), "torch" in sys.modules)
"""


def test_the_collector_rests_while_libraries_come_and_leaves_them_alone():
    done = subprocess.run([sys.executable, "-c", COUNTED], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["False", "True True", "No module named 'nowhere'", "True False"]


def test_a_process_that_has_torch_keeps_its_collector():
    import torch  # noqa: F401

    before = gc.get_freeze_count()
    with importing():
        assert gc.isenabled()
    load_libraries(["tapetum.errors"])
    assert gc.get_freeze_count() == before


def test_the_libraries_of_a_job_are_those_that_its_config_names():
    found = libraries_of(compose(["model=npr", "data=cifake"]).config)
    assert {"torch", "tapetum.tasks.detection", "tapetum.detectors.npr", "tapetum.indexes.cifake"} <= {*found}
    assert "tapetum.tasks.vlm" not in found
    assert found.index("torch") == 0
