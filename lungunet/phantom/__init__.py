"""A seeded synthetic chest CT with exact truth, for the demo, the docs and the tests."""
