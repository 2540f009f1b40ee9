from __future__ import annotations

from tapetum.backbones import tiny
from tapetum.cli import main


def test_tiny_writes_a_qwen_vl_and_says_what_to_type(tmp_path, capsys):
    place = tmp_path / "one"
    assert main(["tiny", "qwen_vl", str(place), "--seed=3"]) == 0
    assert f"tapetum check model=qwen_vl model.net.backbone={place}" in capsys.readouterr().out
    expected = tiny.qwen_vl(tmp_path / "two", seed=3)
    for file in expected.iterdir():
        assert (place / file.name).read_bytes() == file.read_bytes()


def test_every_kind_is_a_function_that_writes_it(tmp_path):
    from tapetum.commands.tiny import KINDS

    for kind in KINDS:
        assert (getattr(tiny, kind)(tmp_path / kind, seed=0) / "config.json").is_file()
