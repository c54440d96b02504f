"""Lung segmentation in CT."""

__version__ = "0.1.0"
