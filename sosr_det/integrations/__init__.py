"""Thin adapters to other frameworks. Each module imports its framework; this package imports none."""
