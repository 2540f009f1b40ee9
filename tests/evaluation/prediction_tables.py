"""Predictions tables for tests."""

import numpy as np
import pyarrow as pa


def predictions(labels, logits, generators=None, split="test", paths=None):
    logit = np.asarray(logits, np.float32)
    count = len(logit)
    probability = (1 / (1 + np.exp(-logit.astype(np.float64)))).astype(np.float32)
    return pa.table(
        {
            "index": pa.array(range(count), pa.int64()),
            "path": pa.array(paths or [f"{split}/{row}.png" for row in range(count)], pa.string()),
            "split": pa.array([split] * count, pa.string()),
            "label": pa.array(np.asarray(labels, np.int64)),
            "generator": pa.array(generators or [None] * count, pa.string()),
            "logit": pa.array(logit),
            "probability": pa.array(probability),
            "verdict": pa.array(["generated" if p >= 0.5 else "real" for p in probability], pa.string()),
            "band": pa.array(np.where(np.abs(probability - 0.55) >= 0.25, "high", "uncertain"), pa.string()),
        }
    )


def random_predictions(count=400, seed=0, names=("ADM", "BigGAN", "GLIDE"), split="test"):
    """Half real without a generator, half generated, evenly over `names`; rounded, so that logits tie."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    logits = np.round(random.normal(2.0 * labels - 1.0, 1.5), 1)
    generators = [names[row // 2 % len(names)] if label else None for row, label in enumerate(labels)]
    return predictions(labels, logits, generators, split)
