"""Several processes, several machines, several jobs."""
