"""Faults on purpose: a tiny training is killed, its disk fails, its files are damaged; what it learns is compared."""
