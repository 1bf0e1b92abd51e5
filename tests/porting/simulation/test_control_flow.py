"""If, Loop, Scan and SequenceMap inside whole models, against onnx.reference and by hand."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper

from porting.simulation.interpreter import Interpreter
from porting_kernels.errors import PortingError

FLOAT = TensorProto.FLOAT


def interpreter(text: str) -> Interpreter:
    return Interpreter(ir.from_proto(onnx.parser.parse_model('<ir_version: 9, opset_import: ["": 18]>\n' + text)))


LOOP = """
g (int64 trips, bool going, float[2] x) => (float[2] last, float[n, 2] all) {
    last, all = Loop (trips, going, x) <body = b (int64 i, bool c, float[2] v) => (bool c_out, float[2] w, float[2] s) {
        limit = Constant <value = float {20.0}> ()
        w = Add(v, x)
        total = ReduceSum <keepdims = 0> (w)
        c_out = Less(total, limit)
        s = Identity(w)
    }>
}"""


@pytest.mark.parametrize("trips, going, rounds", [(3, True, 3), (100, True, 6), (3, False, 0), (0, True, 0)])
def test_loop_ends_by_count_or_condition(trips: int, going: bool, rounds: int) -> None:
    x = torch.tensor([1.0, 2.0])
    found = interpreter(LOOP).run({"trips": torch.tensor(trips), "going": torch.tensor(going), "x": x})
    assert torch.equal(found["last"], x * (rounds + 1))
    expected = torch.stack([x * (i + 2) for i in range(rounds)]) if rounds else torch.empty(0, 2)
    assert torch.equal(found["all"], expected)


def test_inner_graphs_capture_values_through_two_levels() -> None:
    text = """
    g (int64 trips, bool flag, float[1] x, float[1] y) => (float[1] z) {
        go = Constant <value = bool {1}> ()
        z = Loop (trips, go, x) <body = b (int64 i, bool c, float[1] v) => (bool d, float[1] w) {
            d = Identity(c)
            w = If (flag) <then_branch = t () => (float[1] p) { p = Add(v, y) },
                           else_branch = e () => (float[1] q) { q = Mul(v, y) }>
        }>
    }"""
    run = interpreter(text).run
    given = {"trips": torch.tensor(3), "x": torch.tensor([1.0]), "y": torch.tensor([2.0])}
    assert run({**given, "flag": torch.tensor(True)})["z"].item() == 7
    assert run({**given, "flag": torch.tensor(False)})["z"].item() == 8


def scan_model(**attributes: object) -> onnx.ModelProto:
    """Running sums of a sequence: state of shape (2,), one scanned input, one scanned output."""
    body = helper.make_graph(
        [helper.make_node("Add", ["state", "item"], ["sum"]), helper.make_node("Identity", ["sum"], ["out"])],
        "body",
        [helper.make_tensor_value_info(n, FLOAT, [2]) for n in ("state", "item")],
        [helper.make_tensor_value_info(n, FLOAT, [2]) for n in ("sum", "out")],
    )
    node = helper.make_node("Scan", ["start", "items"], ["end", "sums"], body=body, num_scan_inputs=1, **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("start", FLOAT, [2]), helper.make_tensor_value_info("items", FLOAT, None)],
        [helper.make_tensor_value_info("end", FLOAT, [2]), helper.make_tensor_value_info("sums", FLOAT, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize(
    "in_axis, in_reverse, out_axis, out_reverse", [(0, 0, 0, 0), (1, 1, 0, 0), (0, 0, 1, 1), (-1, 1, -1, 1)]
)
def test_scan_takes_axes_and_directions(in_axis: int, in_reverse: int, out_axis: int, out_reverse: int) -> None:
    model = scan_model(
        scan_input_axes=[in_axis],
        scan_input_directions=[in_reverse],
        scan_output_axes=[out_axis],
        scan_output_directions=[out_reverse],
    )
    items = np.arange(10, dtype=np.float32).reshape(5, 2)
    start = np.array([100, 200], np.float32)
    given = np.moveaxis(items, 0, in_axis)
    sums = start + np.cumsum(items[::-1] if in_reverse else items, 0)
    found = Interpreter(ir.from_proto(model)).run({"start": start, "items": np.ascontiguousarray(given)})
    np.testing.assert_array_equal(found["end"].numpy(), sums[-1])
    expected = np.moveaxis(sums[::-1] if out_reverse else sums, 0, out_axis)
    np.testing.assert_array_equal(found["sums"].numpy(), expected)


def test_sequence_map_repeats_tensors_and_checks_lengths() -> None:
    text = """
    g (seq(float[n]) xs, seq(float[n]) ys, float[1] by) => (seq(float[n]) zs) {
        zs = SequenceMap (xs, ys, by) <body = b (float[n] x, float[n] y, float[1] k) => (float[n] z) {
            s = Add(x, y)
            z = Mul(s, k)
        }>
    }"""
    run = interpreter(text).run
    xs, by = [torch.ones(2), torch.ones(3)], torch.tensor([3.0])
    found = run({"xs": xs, "ys": xs, "by": by})["zs"]
    assert [z.tolist() for z in found] == [[6, 6], [6, 6, 6]]
    with pytest.raises(PortingError, match="another length"):
        run({"xs": xs, "ys": xs[:1], "by": by})


def test_an_error_inside_a_body_names_both_places() -> None:
    text = """
    g (bool flag, float[2] x) => (float[3] y) {
        y = If (flag) <then_branch = t () => (float[3] p) { s = Constant <value = int64[1] {3}> ()  p = Reshape(x, s) },
                       else_branch = e () => (float[3] q) { q = Concat <axis = 0> (x, x) }>
    }"""
    with pytest.raises(PortingError, match="Reshape") as error:
        interpreter(text).run({"flag": torch.tensor(True), "x": torch.zeros(2)})
    assert "inside If node" in str(error.value)
