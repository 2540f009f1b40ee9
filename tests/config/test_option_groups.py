from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tapetum.config.groups import Option, groups


def test_every_yaml_is_an_option_with_a_line_about_it():
    conf = Path(__import__("tapetum.conf", fromlist=["conf"]).__file__).parent
    found = {(group, option.name) for group, options in groups().items() for option in options}
    on_disk = {
        (path.parent.name, path.stem) for path in conf.glob("*/*.yaml") if not path.stem.startswith("_")
    }
    assert found == {pair for pair in on_disk if pair[0] != "task"}
    assert all(
        option.description for group, options in groups().items() if group != "local" for option in options
    )


def test_the_description_is_the_first_comment_that_is_no_package():
    assert Option("adam", "Adam.") in groups()["optimizer"]
    assert Option("cpu", "The processor.") in groups()["accelerator"]


def test_groups_are_listed_without_hydra():
    code = (
        "import sys; from tapetum.config.groups import groups; groups()\n"
        "print('hydra' in sys.modules, 'omegaconf' in sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["False", "False"]
