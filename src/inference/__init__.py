"""A network over images: Predictions, and the Predictor of a finished run."""
