"""A backbone under a config and in a live model: putting it there, and holding it to its checkpoint."""
