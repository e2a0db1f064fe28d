"""Training checkpoints: written whole or not at all, checked, and enough to go on from exactly."""
