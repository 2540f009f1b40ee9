"""What a detector is worth: binary metrics, calibration, confidence intervals, thresholds."""
