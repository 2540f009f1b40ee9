"""A run on the disk: record, resume, callbacks, loggers, loading."""
