"""The engine around mmengine's Runner: configs, hooks, run records, training and testing."""
