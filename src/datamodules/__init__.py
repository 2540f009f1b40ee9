"""One LightningDataModule a task, samplers, the cache of decoded images."""
