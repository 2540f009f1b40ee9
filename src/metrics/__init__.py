"""What a detector or an embedder is worth: rankings, decisions, calibration, confidence intervals, health."""
