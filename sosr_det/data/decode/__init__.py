"""Transforms that decode the image file themselves, so that they read no more of it than they use."""
