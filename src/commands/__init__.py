"""One file a verb; the only place where fit, inference, evaluation, reports and loggers meet."""
