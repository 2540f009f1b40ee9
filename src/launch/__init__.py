"""Several processes, several jobs: torchrun and sweeps."""
