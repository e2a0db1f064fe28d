"""Going on with a run: what may differ from what it was, and what follows from it."""
