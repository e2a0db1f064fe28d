"""Readers of detections and ground truth that others wrote: one module a format, numpy only.

Coordinates come out as PASCAL VOC's files have them: pixels, 1-based, inclusive.
"""
