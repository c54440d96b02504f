"""Scans: volumes with their geometry, from and to files."""
