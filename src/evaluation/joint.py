"""How sure the figures over generators are: one bootstrap of all images, in which none is drawn twice over.

Real images that several generators share stand in several figures. Resampling each generator alone would draw
them anew for each and make a mean look surer than it is; here a draw gives every image one count, and all
figures of the draw are computed from these counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .generators import Subset, data_sets, metric_name, subsets

Interval = tuple[float, float]
Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.float32]

RANKED = ("balanced_accuracy", "auroc", "ap")
_WORK = 20_000_000  # drawn images over all resamples and generators, above which fewer are drawn
_AT_ONCE = 2_000_000  # counts held in memory at a time


def joint_intervals(
    predictions: pa.Table, *, threshold: float | None = None, samples: int | None = None, seed: int = 0
) -> dict[str, Interval]:
    """95 % percentile intervals (low, high) of what is judged generator by generator (Efron, 1979).

    Of each generator `generator/<NAME>/{balanced_accuracy,auroc,ap}`, and of the macro means
    `generator_mean/<figure>` of these and of the accuracies, at logit 0 and, as `…_tuned`, at `threshold`;
    with several data sets `data/<NAME>/generator_mean/<figure>`, too. Nothing without generators, and
    nothing for a figure that is undefined.

    Images are resampled within their data set, class and generator, as many as there are, so a mean is
    defined in every resample, and real images that generators share are drawn once for all of them. The
    minimum and the deviation over generators have no interval: resampling adds noise, which pushes a minimum
    down and a deviation up. samples: resamples from `seed`; None: 1000, of many images fewer, never below
    200.
    """
    found = subsets(predictions)
    if not found:
        return {}
    work = sum(len(subset.rows) for subset in found)
    draws = samples or min(1000, max(200, _WORK // max(1, work)))
    judges = [_Judge(predictions, subset, threshold) for subset in found]
    cells = _cells(predictions)
    random = np.random.default_rng(seed)
    step = max(1, _AT_ONCE // max(1, len(predictions)))
    parts: list[list[dict[str, Floats]]] = [[] for _ in found]
    for start in range(0, draws, step):
        counts = _resampled(cells, len(predictions), min(step, draws - start), random)
        for part, judge in zip(parts, judges, strict=True):
            part.append(judge.figures(counts))
    drawn = [{name: np.concatenate([one[name] for one in part]) for name in part[0]} for part in parts]
    bounds = {
        f"generator/{subset.metric_name}/{name}": _percentiles(values[name])
        for subset, values in zip(found, drawn, strict=True)
        for name in RANKED
        if name in values
    }
    bounds |= _means(drawn, "")
    for name in data_sets(predictions):
        own = [values for subset, values in zip(found, drawn, strict=True) if subset.data == name]
        bounds |= _means(own, f"data/{metric_name(name)}/") if own else {}
    return bounds


class _Judge:
    """One generator's figures from counts of all images; what does not change between draws is kept."""

    def __init__(self, predictions: pa.Table, subset: Subset, threshold: float | None) -> None:
        logits = predictions["logit"].to_numpy()[subset.rows].astype(np.float64)
        generated = predictions["label"].to_numpy()[subset.rows] == 1
        order = np.argsort(logits, kind="stable")
        self.rows = subset.rows[order]
        self.generated, logits = generated[order], logits[order]
        self.thresholds = {"": 0.0} | ({} if threshold is None else {"_tuned": threshold})
        self.cuts = {
            suffix: int(np.searchsorted(logits, value, side="right"))
            for suffix, value in self.thresholds.items()
        }
        # the first of every run of equal logits
        self.starts = np.flatnonzero(np.r_[True, logits[1:] != logits[:-1]])

    def figures(self, counts: Counts) -> dict[str, Floats]:
        """counts: [draws, images], how often each is drawn. Figure → float64 [draws], undefined ones left
        out."""
        mine = counts[:, self.rows]
        fakes, reals = mine[:, self.generated], mine[:, ~self.generated]
        n_fakes, n_reals = fakes.shape[1], reals.shape[1]  # resampling keeps the size of every cell
        found: dict[str, Floats] = {}
        for suffix, cut in self.cuts.items():
            hits = mine[:, cut:][:, self.generated[cut:]].sum(1, dtype=np.float64)
            found[f"fake_accuracy{suffix}"] = hits / n_fakes
            rejected = mine[:, :cut][:, ~self.generated[:cut]].sum(1, dtype=np.float64)
            found[f"accuracy{suffix}"] = (hits + rejected) / (n_fakes + n_reals)
            if n_reals:
                found[f"real_accuracy{suffix}"] = rejected / n_reals
        if n_reals:
            found["balanced_accuracy"] = (found["fake_accuracy"] + found["real_accuracy"]) / 2
            found |= self._rankings(mine)
        return found

    def _rankings(self, mine: Counts) -> dict[str, Floats]:
        """auroc with ties half, ap step-wise, as in `binary_metrics`."""
        fakes = np.add.reduceat(np.where(self.generated, mine, 0), self.starts, axis=1, dtype=np.float64)
        both = np.add.reduceat(mine, self.starts, axis=1, dtype=np.float64)
        reals = both - fakes
        n_fakes, n_reals = fakes.sum(1), reals.sum(1)
        below = np.cumsum(reals, axis=1) - reals / 2
        auroc = (fakes * below).sum(1) / (n_fakes * n_reals)
        found = np.cumsum(fakes[:, ::-1], axis=1)
        called = np.cumsum(both[:, ::-1], axis=1)
        precision = np.divide(found, called, out=np.zeros_like(found), where=called > 0)
        return {"auroc": auroc, "ap": (fakes[:, ::-1] * precision).sum(1) / n_fakes}


def _cells(predictions: pa.Table) -> list[npt.NDArray[np.int64]]:
    """Rows by data set, class and generator: what is resampled among itself."""
    codes = predictions["label"].to_numpy().astype(np.int64)
    for column in ("generator", "data"):
        if column in predictions.column_names:
            values = predictions[column].combine_chunks().dictionary_encode().indices
            own = values.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64) + 1
            codes = codes * (int(own.max(initial=0)) + 1) + own
    order = np.argsort(codes, kind="stable")
    _, starts = np.unique(codes[order], return_index=True)
    return np.split(order, starts[1:])


def _resampled(
    cells: Sequence[npt.NDArray[np.int64]], images: int, draws: int, random: np.random.Generator
) -> Counts:
    """float32 [draws, images]: how often each image is drawn, as many of every cell as it has."""
    counts = np.zeros((draws, images), np.float32)
    for rows in cells:
        size = len(rows)
        drawn = random.integers(size, size=(draws, size))
        drawn += np.arange(draws)[:, None] * size
        counts[:, rows] = np.bincount(drawn.ravel(), minlength=draws * size).reshape(draws, size)
    return counts


def _means(drawn: Sequence[dict[str, Floats]], prefix: str) -> dict[str, Interval]:
    """Intervals of the macro means of the figures that every generator has."""
    shared = [name for name in drawn[0] if all(name in values for values in drawn)]
    return {
        f"{prefix}generator_mean/{name}": _percentiles(np.mean([values[name] for values in drawn], axis=0))
        for name in shared
    }


def _percentiles(values: Floats) -> Interval:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
