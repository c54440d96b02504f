"""What surrounds the network in an exported file: the input contract in ONNX operators.

From CT values to what the network is fed, and from its logits to masks, by the arithmetic of
:class:`InputContract`: whoever runs the file needs to know neither window nor size.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lungunet.data.codec import LabelCodec
from lungunet.data.contract import InputContract
from lungunet.data.window import Window
from lungunet.errors import ModelError
from lungunet.models.onnx_file import IMAGE, MASK, PROBABILITY

_LEAST_OVERLAP_PX = 1e-3  # OpenCV's INTER_AREA leaves out what overlaps less
_STEPS = 256.0  # OpenCV's INTER_LINEAR_EXACT rounds places to this fraction of a pixel


def surround(
    network: onnx.ModelProto, contract: InputContract, codec: LabelCodec, *, members: int = 1
) -> onnx.ModelProto:
    """Put what an input contract does before and after a network into one graph with it.

    Parameters
    ----------
    network : float32 (N, 1, size, size) to logits (N, C, size, size); of several members the
        logits of one after the other, (N, members * C, size, size), whose probabilities are
        averaged

    Returns
    -------
    ModelProto
        From ``image``, float32 (N, H, W), to ``mask``, raw values (N, H, W), and ``probability``,
        float32 (N, C, H, W).
    """
    raw_values = codec.for_prediction.decode(np.arange(codec.n_classes))
    inner = network.graph
    before, after = _Nodes(), _Nodes(start=1000)
    sides = _find_sides(before, contract.size)
    before.name(_prepare(before, contract, sides), inner.input[0].name)
    mask, probability = _finish(after, inner.output[0].name, sides, raw_values, members)
    after.name(mask, MASK)
    after.name(probability, PROBABILITY)
    for node in inner.node:  # the exporter notes source lines, with the paths of this machine
        del node.metadata_props[:]
        node.doc_string = ""
    values = helper.np_dtype_to_tensor_dtype(raw_values.dtype)
    graph = helper.make_graph(
        [*before.nodes, *inner.node, *after.nodes],
        "lungunet",
        [helper.make_tensor_value_info(IMAGE, TensorProto.FLOAT, ["N", "H", "W"])],
        [
            helper.make_tensor_value_info(MASK, values, ["N", "H", "W"]),
            helper.make_tensor_value_info(
                PROBABILITY, TensorProto.FLOAT, ["N", codec.n_classes, "H", "W"]
            ),
        ],
        [*before.constants, *inner.initializer, *after.constants],
    )
    return helper.make_model(
        graph, opset_imports=network.opset_import, ir_version=network.ir_version
    )


def leave_weights(network: onnx.ModelProto, weights: Path, *, prefix: str) -> None:
    """Let a network take its weights from a safetensors file beside it; changed in place.

    Parameters
    ----------
    weights : in half precision
    prefix : of the network's names, before those of the file
    """
    content = weights.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    held = json.loads(content[8:start])
    casts = []
    for tensor in network.graph.initializer:
        entry = held.get(tensor.name.removeprefix(prefix))
        if entry is None:
            continue
        if entry["dtype"] != "F16":
            raise ModelError("holds weights that are no halves. Save model.half().", where=weights)
        begin, end = entry["data_offsets"]
        place = {"location": weights.name, "offset": start + begin, "length": end - begin}
        stored = TensorProto(
            name=f"{tensor.name}_half",
            dims=tensor.dims,
            data_type=TensorProto.FLOAT16,
            data_location=TensorProto.EXTERNAL,
            external_data=[{"key": key, "value": str(value)} for key, value in place.items()],
        )
        casts.append(helper.make_node("Cast", [stored.name], [tensor.name], to=TensorProto.FLOAT))
        tensor.CopyFrom(stored)
    own = {tensor.name.removesuffix("_half") for tensor in network.graph.initializer}
    for node in network.graph.node:
        # Where a layer has no bias the exporter computes zeros, which keep onnxruntime from joining
        # it with the batch norm behind it.
        if node.op_type == "Conv" and not own.issuperset(node.input[2:]):
            del node.input[2:]
    nodes = [*casts, *_used(network.graph)]
    del network.graph.node[:]
    network.graph.node.extend(nodes)


def _used(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the nodes that the outputs need."""
    wanted = {output.name for output in graph.output}
    used = []
    for node in reversed(graph.node):  # each comes after those that it needs
        if wanted.intersection(node.output):
            wanted.update(node.input)
            used.append(node)
    return used[::-1]


_Value: TypeAlias = str | float | np.float32 | np.ndarray  # a tensor by name, or a constant


class _Nodes:
    """Collects nodes: a call adds one, and returns the name of the tensor that it computes."""

    def __init__(self, start: int = 0) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._count = start

    def __call__(self, operator: str, *inputs: _Value, **settings: Any) -> str:
        """Add a node; inputs that are no names become constants, floats of them float64."""
        names = [each if isinstance(each, str) else self._constant(each) for each in inputs]
        output = self._next(operator)
        self.nodes.append(helper.make_node(operator, names, [output], name=output, **settings))
        return output

    def name(self, tensor: str, name: str) -> None:
        """Let a tensor be known by another name too."""
        self.nodes.append(helper.make_node("Identity", [tensor], [name], self._next("Identity")))

    def _constant(self, value: _Value) -> str:
        name = self._next("constant")
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def _next(self, kind: str) -> str:
        self._count += 1
        return f"lungunet/{kind}_{self._count}"


class _Side(NamedTuple):
    """One side of the slice and its place in the square, as names of float64 tensors.

    Parameters
    ----------
    length : of the slice, px
    inner : of the slice in the square, px; see ``InputContract._box``
    places : px of the square, counted from where the slice starts in it: (size,)
    inputs_axis : of the matrix that scales it: 1 where that stands on the left of the picture, for
        its rows, else 0
    """

    length: str
    inner: str
    places: str
    inputs_axis: int

    def lay_out(self, graph: _Nodes, outputs: str, inputs: str) -> tuple[str, str]:
        """Turn places into a column and a row, so that they span the matrix of this side."""
        return (
            graph("Unsqueeze", outputs, np.array([self.inputs_axis])),
            graph("Unsqueeze", inputs, np.array([1 - self.inputs_axis])),
        )


def _find_sides(graph: _Nodes, size: int) -> list[_Side]:
    """See ``InputContract._box``; in float64 like there, so that sizes round the same way."""
    shape = graph("Shape", IMAGE)
    lengths = [
        graph("Cast", graph("Gather", shape, axis), to=TensorProto.DOUBLE) for axis in (1, 2)
    ]
    scale = graph("Div", float(size), graph("Max", *lengths))
    sides = []
    for length, inputs_axis in zip(lengths, (1, 0), strict=True):
        inner = graph("Max", 1.0, graph("Round", graph("Mul", length, scale)))
        start = graph("Floor", graph("Div", graph("Sub", float(size), inner), 2.0))
        places = graph("Sub", np.arange(float(size)), start)
        sides.append(_Side(length, inner, places, inputs_axis))
    return sides


def _prepare(graph: _Nodes, contract: InputContract, sides: list[_Side]) -> str:
    """Window, fit and normalise; see ``InputContract.prepare``."""
    grey = IMAGE if contract.window is None else _to_grey(graph, contract.window)
    longer = graph("Max", *(side.length for side in sides))
    shrinks = graph("Greater", longer, float(contract.size))
    steps = [_step(graph, side) for side in sides]
    # At whole factors OpenCV sums whole numbers and divides once: the halves are halves.
    whole = graph("And", *(graph("Equal", step, graph("Round", step)) for step in steps))
    rows, columns = (
        _fit(graph, side, step, shrinks, graph("Where", whole, 1.0, step))
        for side, step in zip(sides, steps, strict=True)
    )
    area = graph("Cast", graph("Where", whole, graph("Mul", *steps), 1.0), to=TensorProto.FLOAT)
    sums = graph("MatMul", rows, graph("MatMul", grey, columns))
    fitted = graph("Mul", sums, graph("Div", np.float32(1), area))
    # OpenCV rounds halves to even, but upwards where it enlarges, or halves both sides.
    halved = [graph("Equal", side.length, graph("Mul", side.inner, 2.0)) for side in sides]
    upwards = graph("Or", graph("Not", shrinks), graph("And", *halved))
    half_up = graph("Floor", graph("Add", fitted, np.float32(0.5)))
    grey = graph("Where", upwards, half_up, graph("Round", fitted))
    centred = graph("Sub", graph("Div", grey, np.float32(255)), np.float32(contract.mean))
    return graph("Unsqueeze", graph("Div", centred, np.float32(contract.std)), np.array([1]))


def _to_grey(graph: _Nodes, window: Window) -> str:
    """See ``Window.to_grey``."""
    low = np.float32(window.level - window.width / 2)
    scaled = graph("Div", graph("Sub", IMAGE, low), np.float32(window.width))
    clipped = graph("Clip", scaled, np.float32(0), np.float32(1))
    return graph("Round", graph("Mul", clipped, np.float32(255)))


def _step(graph: _Nodes, side: _Side) -> str:
    """Return how many pixels of the slice go into one of the square."""
    return graph("Div", 1.0, graph("Div", side.inner, side.length))  # as OpenCV has it


def _fit(graph: _Nodes, side: _Side, step: str, shrinks: str, total: str) -> str:
    """Return the matrix that scales a side into the square; its rows sum to a step by ``total``."""
    place, pixel = side.lay_out(graph, side.places, graph("Range", 0.0, side.length, 1.0))
    shares = graph("Div", _overlaps(graph, place, pixel, step), total)
    # INTER_LINEAR_EXACT has places within the picture, at a fraction of a pixel.
    last = graph("Sub", side.length, 1.0)
    centre = graph("Min", graph("Max", _centre(graph, place, step), 0.0), last)
    rounded = graph("Div", graph("Round", graph("Mul", centre, _STEPS)), _STEPS)
    weights = graph("Where", shrinks, shares, _tent(graph, pixel, rounded, 1.0))
    return graph("Cast", _within(graph, side, place, weights), to=TensorProto.FLOAT)


def _within(graph: _Nodes, side: _Side, place: str, weights: str) -> str:
    """Return the weights of places in the slice, and 0 on the padding around it."""
    inside = graph("And", graph("GreaterOrEqual", place, 0.0), graph("Less", place, side.inner))
    return graph("Where", inside, weights, 0.0)


def _overlaps(graph: _Nodes, place: str, pixel: str, step: str) -> str:
    """Return how much each pixel overlaps with a place, which is a step wide; for INTER_AREA."""
    first = graph("Mul", place, step)
    overlap = graph(
        "Sub",
        graph("Min", graph("Add", pixel, 1.0), graph("Add", first, step)),
        graph("Max", pixel, first),
    )
    counts = graph("Greater", overlap, _LEAST_OVERLAP_PX)
    return graph("Where", counts, overlap, 0.0)


def _centre(graph: _Nodes, place: str, step: str) -> str:
    """Return where the centre of a pixel lies in the grid that it is sampled from."""
    return graph("Sub", graph("Mul", graph("Add", place, 0.5), step), 0.5)


def _tent(graph: _Nodes, pixel: str, centre: str, reach: str | float) -> str:
    """Bilinear weights: 1 at the centre, 0 from ``reach`` on."""
    away = graph("Div", graph("Abs", graph("Sub", pixel, centre)), reach)
    return graph("Max", graph("Sub", 1.0, away), 0.0)


def _finish(
    graph: _Nodes, logits: str, sides: list[_Side], raw_values: np.ndarray, members: int
) -> tuple[str, str]:
    """Go from logits to mask and probability at the size of the slice."""
    shrinks = graph("Less", sides[0].length, sides[0].inner)
    rows, columns = (_unfit(graph, side, shrinks) for side in sides)
    if len(raw_values) > 2:
        scaled = graph("MatMul", graph("MatMul", rows, logits), columns)
        if members > 1:
            probability = _mean_of(graph, scaled, members, len(raw_values))
            classes = graph("ArgMax", probability, axis=1, keepdims=0)
            return graph("Gather", raw_values, classes), probability
        classes = graph("ArgMax", scaled, axis=1, keepdims=0)
        return graph("Gather", raw_values, classes), graph("Softmax", scaled, axis=1)
    # Of two classes the difference says all, at half the cost.
    places = 2 * np.arange(members)
    background, lung = (graph("Gather", logits, places + index, axis=1) for index in (0, 1))
    gain = graph("MatMul", graph("MatMul", rows, graph("Sub", lung, background)), columns)
    likely = graph("Sigmoid", gain)
    if members > 1:
        likely = graph("ReduceMean", likely, np.array([1]))
        is_lung = graph("Greater", graph("Squeeze", likely, np.array([1])), np.float32(0.5))
    else:
        is_lung = graph("Greater", graph("Squeeze", gain, np.array([1])), np.float32(0))
    mask = graph("Where", is_lung, raw_values[1], raw_values[0])
    return mask, graph("Concat", graph("Sub", np.float32(1), likely), likely, axis=1)


def _mean_of(graph: _Nodes, logits: str, members: int, classes: int) -> str:
    """Average the probabilities of members whose logits lie one after the other."""
    shape = graph("Shape", logits)
    n, height, width = (
        graph("Slice", shape, np.array([axis]), np.array([axis + 1])) for axis in (0, 2, 3)
    )
    parted = graph("Concat", n, np.array([members, classes]), height, width, axis=0)
    apart = graph("Softmax", graph("Reshape", logits, parted), axis=2)
    return graph("ReduceMean", apart, np.array([1]), keepdims=0)


def _unfit(graph: _Nodes, side: _Side, shrinks: str) -> str:
    """Return the matrix that cuts the padding off and scales a side back; see ``unfit``."""
    pixel, place = side.lay_out(graph, graph("Range", 0.0, side.length, 1.0), side.places)
    step = graph("Div", side.inner, side.length)
    # Shrinking needs a low-pass, growing must not have one.
    reach = graph("Where", shrinks, graph("Max", step, 1.0), 1.0)
    tent = _tent(graph, place, _centre(graph, pixel, step), reach)
    tent = _within(graph, side, place, tent)
    total = graph("ReduceSum", tent, np.array([side.inputs_axis]))
    return graph("Cast", graph("Div", tent, total), to=TensorProto.FLOAT)
