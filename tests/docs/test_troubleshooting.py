"""docs/troubleshooting.md has an entry for what living with runs may say.

That each heading is part of a message is asserted by test_commands.py; here it is the other way round.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(
    [
        *(ROOT / "src" / "indexes").glob("hf*.py"),
        *(
            ROOT / "src" / name
            for name in (
                "commands/dashboard.py",
                "commands/data_sets.py", "commands/doctor.py", "commands/download.py", "commands/predict.py",
                "commands/report.py", "commands/resuming.py", "commands/show.py", "datamodules/features.py",
                "datamodules/kept.py", "fetching/hub.py", "images/parquet_images.py", "images/sources.py",
                "images/tar_archive.py", "indexes/manifest.py", "indexes/tars.py", "inference/files.py",
                "inference/inputs.py", "inference/items.py", "inference/output.py", "inference/predictor.py",
                "inference/verdicts.py", "metrics/own.py", "runs/averaging.py", "runs/checkpoints.py",
                "runs/directory.py", "runs/finding.py", "runs/gradual_unfreeze.py", "runs/interrupt.py",
                "runs/loading.py", "runs/lock.py", "runs/mlflow_logger.py", "runs/resume.py",
                "runs/shards.py", "runs/study.py",
                "runs/trackers.py", "runs/wandb_account.py", "runs/wandb_logger.py",
                "launch/meeting.py", "launch/local_pool.py", "launch/cluster.py", "launch/sweep_directory.py",
                "launch/world.py",
            )
        ),
    ]
)  # fmt: skip


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_error_has_an_entry(file: Path) -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    headings = re.findall(r"^### `(.+)`$", page, re.MULTILINE)
    entries = [[part.strip() for part in heading.split("…") if part.strip()] for heading in headings]
    missing = [
        message
        for message in _raised(ast.parse(file.read_text(encoding="utf-8")))
        if not any(all(part in message for part in parts) for parts in entries)
    ]
    assert missing == []


def _raised(tree: ast.AST) -> Iterator[str]:
    """The texts of errors that stand where they are raised, `…` where a value goes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            name, said = node.exc.func, _text(node.exc.args[0])
            ours = isinstance(name, ast.Name) and name.id.endswith("Error") and name.id != "ValueError"
            if ours and len(re.findall(r"\w", said)) > 11:  # else what it says is somebody else's message
                yield re.sub(r"\s+", " ", said)


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_text, node.values))
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    if isinstance(node, ast.IfExp):
        return _text(node.body) + _text(node.orelse)
    return "…"
