"""One LightningModule a task: loss, metrics, optimizer wiring."""
