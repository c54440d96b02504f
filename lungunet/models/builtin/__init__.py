"""Models that come with the package, each a model folder beside this file. Knows no torch."""

from pathlib import Path

BUILTIN = {"lungs": Path(__file__).parent / "lungs"}
"""Word -> model folder."""

GRAPH = "graph.onnx"
"""The network of such a folder for onnxruntime; its weights are those of the folder."""
