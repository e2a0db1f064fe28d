"""Carrying weights between files, the registry and live models, with nothing lost or changed on the way."""
