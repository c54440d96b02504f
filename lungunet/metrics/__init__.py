"""Counts and what follows from them; pure, no files."""
