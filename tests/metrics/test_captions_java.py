import shutil
from pathlib import Path

import pycocoevalcap
import pytest
from tapetum.errors import ConfigError, DataError
from tapetum.metrics.captions_java import java_metrics

CANDIDATES = ["A dog runs on the grass.", "two men (in red) sit", "The hound slept!", ""]
REFERENCES = [
    ["A dog runs on the grass.", "the brown dog ran"],
    ["two men sit in red hats"] * 2,
    ["the dog sleeps"] * 2,
    ["a bird | flies"] * 2,
]
needs_java = pytest.mark.skipif(
    shutil.which("java") is None, reason="METEOR is a Java program; no java on the PATH"
)


@needs_java
def test_meteor_is_what_its_command_line_prints():
    # `java -jar meteor-1.5.jar candidates references -l en -norm -r 2`, of these as tokens, a line each
    assert java_metrics(CANDIDATES, REFERENCES)["meteor"] == pytest.approx(0.3894025054284403, abs=1e-12)


def test_a_java_that_dies_is_told_and_does_not_hang(monkeypatch, tmp_path):
    fake = tmp_path / "java"
    fake.write_text("#!/bin/sh\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    with pytest.raises(DataError, match="METEOR's Java program gave no figure"):
        java_metrics(CANDIDATES, REFERENCES)


def test_without_java_the_error_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ConfigError, match="no `java` on the PATH"):
        java_metrics(CANDIDATES, REFERENCES)


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr("tapetum.metrics.captions_java.PACKAGE", "no_such_package")

    with pytest.raises(ConfigError, match=r"pip install 'tapetum\[meteor\]'"):
        java_metrics(CANDIDATES, REFERENCES)


@needs_java
def test_spice_is_never_downloaded():
    library = Path(next(iter(pycocoevalcap.__path__))) / "spice" / "lib"
    if (library / "stanford-corenlp-3.6.0.jar").exists():
        pytest.skip("SPICE's files are here")

    with pytest.raises(ConfigError, match=r"SPICE lacks stanford-corenlp-3\.6\.0\.jar"):
        java_metrics(CANDIDATES, REFERENCES, ["spice"])
    assert not (library / "stanford-corenlp-3.6.0.jar").exists()


def test_an_unknown_metric_is_named():
    with pytest.raises(ConfigError, match="unknown Java metric 'wmd': meteor, spice"):
        java_metrics(CANDIDATES, REFERENCES, ["wmd"])
