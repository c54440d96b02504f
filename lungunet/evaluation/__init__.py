"""Can the masks be trusted? Scores against the truth."""
