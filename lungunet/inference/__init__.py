"""From a model to masks."""
