"""METEOR and SPICE, which exist in Java only: the published programs, through pycocoevalcap's wrappers."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import CalledProcessError

from ..errors import ConfigError, DataError
from .captions import tokenized

NAMES = ("meteor", "spice")
PACKAGE = "pycocoevalcap"
_SPICE_JARS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")


def java_metrics(
    candidates: Sequence[str], references: Sequence[Sequence[str]], names: Sequence[str] = ("meteor",)
) -> dict[str, float]:
    """`meteor` and `spice` of the corpus, in [0, 1], of one caption an image against that image's references.

    METEOR 1.5 (Denkowski and Lavie, WMT 2014) for English; SPICE (Anderson et al., ECCV 2016). Takes a Java
    process with 2 GB (METEOR) or 8 GB (SPICE) of memory. Nothing is ever downloaded: SPICE needs two files of
    Stanford CoreNLP beside it, and the error says which.
    Raises ConfigError for what is missing; DataError where Java gives no figure, and as `caption_metrics`.
    """
    for name in names:
        if name not in NAMES:
            raise ConfigError(f"unknown Java metric {name!r}: {', '.join(NAMES)}")
        _check(name)
    texts, known = tokenized(candidates, references)
    written = {number: [" ".join(text)] for number, text in enumerate(texts)}
    wanted = {number: [" ".join(text) for text in several] for number, several in enumerate(known)}
    scorers = {"meteor": _meteor, "spice": _spice}
    return {name: scorers[name](wanted, written) for name in names}


def _check(name: str) -> None:
    found = importlib.util.find_spec(PACKAGE)
    if found is None or (found.origin is None and not found.submodule_search_locations):
        raise ConfigError(f"{name} needs the package {PACKAGE}: pip install 'tapetum[meteor]'")
    if shutil.which("java") is None:
        raise ConfigError(f"{name} runs on Java, and there is no `java` on the PATH: install a Java runtime")
    if name == "spice":
        folder = Path(next(iter(found.submodule_search_locations or []))) / "spice" / "lib"
        missing = [jar for jar in _SPICE_JARS if not (folder / jar).is_file()]
        if missing:
            raise ConfigError(
                f"SPICE lacks {' and '.join(missing)} in {folder}: they are part of Stanford CoreNLP 3.6.0 "
                "(384 MB), and tapetum downloads nothing by itself; put them there"
            )


def _meteor(references: dict[int, list[str]], candidates: dict[int, list[str]]) -> float:
    from pycocoevalcap.meteor.meteor import Meteor

    meteor = Meteor()
    try:
        score, _ = meteor.compute_score(references, candidates)
    except (OSError, ValueError) as error:
        # its destructor takes the lock that a failure has left locked, and closes what is broken
        meteor.lock.release()
        with suppress(OSError):
            meteor.meteor_p.stdin.close()
        raise DataError(
            f"METEOR's Java program gave no figure ({error}): does it get 2 GB of memory?"
        ) from error
    return float(score)


def _spice(references: dict[int, list[str]], candidates: dict[int, list[str]]) -> float:
    from pycocoevalcap.spice.spice import Spice

    try:
        score, _ = Spice().compute_score(references, candidates)
    except CalledProcessError as error:
        raise DataError(f"SPICE's Java program failed ({error}): does it get 8 GB of memory?") from error
    return float(score)
