"""What a run tells while it trains: progress on the terminal, and ``metrics.jsonl`` beside its checkpoints."""
