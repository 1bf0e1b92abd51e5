"""The verdict on a node: legal, illegal or unknown, with every reason."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import pytest

from porting_passes.legality import Illegal, Legal, Unknown, check
from porting_passes.operator_set import OperatorSet


def operator_set(*rows: dict[str, Any], **overrides: Any) -> OperatorSet:
    base = {"domain": "", "opset": [8, 18], "outputs": [{"name": "Y"}], "source": ["table 1"], "evidence": "doc"}
    unlisted = {"unlisted": "illegal", "unlisted_reason": {"reason": "a plug-in", "source": "table 2"}}
    return OperatorSet.from_json(
        {"surface": "test", "opset": 18, **unlisted, **overrides, "rows": [{**base, **row} for row in rows]}
    )


def limit(expression: str | None, **more: Any) -> dict[str, Any]:
    return {"text": f"limit {expression}", "expression": expression, "source": "page 3", **more}


def value(name: str, dtype: ir.DataType | None = ir.DataType.FLOAT16, shape: list[Any] | None = None) -> ir.Value:
    kind = None if dtype is None else ir.TensorType(dtype)
    return ir.Value(name=name, type=kind, shape=None if shape is None else ir.Shape(shape))


def node(op_type: str, *inputs: ir.Value | None, domain: str = "", outputs: int = 1, **attributes: Any) -> ir.Node:
    made = ir.node(op_type, list(inputs), attributes, domain=domain, num_outputs=outputs)
    for output in made.outputs:
        output.dtype = ir.DataType.FLOAT16
    return made


CONV = {
    "operator": "Conv",
    "inputs": [
        {"name": "X", "dtypes": ["float16", "float32"]},
        {"name": "W", "dtypes": ["float16"]},
        {"name": "B", "optional": True},
    ],
    "constraints": [limit("rank(X) in [4, 5]"), limit("rank(X) == 4 or attr('auto_pad') == 'NOTSET'")],
}
X = value("x", shape=[1, 3, 8, 8])
W = value("w", shape=[4, 3, 1, 1])


def test_legal() -> None:
    verdict = check(node("Conv", X, W), operator_set(CONV), 18)
    assert isinstance(verdict, Legal)
    assert verdict.row is not None
    assert verdict.row.operator == "Conv"


def test_every_reason_is_given_with_value_limit_and_source() -> None:
    wide = value("x", ir.DataType.DOUBLE, [1, 3, 8, 8, 8, 8])
    verdict = check(node("Conv", wide, W, auto_pad="VALID"), operator_set(CONV), 19)
    assert isinstance(verdict, Illegal)
    assert [(r.rule, r.met, r.allowed, r.source) for r in verdict.reasons] == [
        ("opset", "19", "8..18", "table 1"),
        ("dtype of X", "float64", "float16, float32", "table 1"),
        ("limit rank(X) in [4, 5]", "rank(X) = 6", "rank(X) in [4, 5]", "page 3"),
        (
            "limit rank(X) == 4 or attr('auto_pad') == 'NOTSET'",
            "rank(X) = 6, attr('auto_pad') = 'VALID'",
            "rank(X) == 4 or attr('auto_pad') == 'NOTSET'",
            "page 3",
        ),
    ]


def test_defaults_of_the_schema_count_for_absent_attributes() -> None:
    deep = value("x", shape=[1, 3, 8, 8, 8])
    assert isinstance(check(node("Conv", deep, W), operator_set(CONV), 18), Legal)


@pytest.mark.parametrize(
    ("x", "missing"),
    [
        (value("x", None, [1, 3, 8, 8]), "dtype of X"),
        (value("x"), "limit rank(X) in [4, 5]"),
    ],
    ids=["no dtype", "no shape"],
)
def test_what_is_not_known_makes_the_verdict_unknown(x: ir.Value, missing: str) -> None:
    verdict = check(node("Conv", x, W), operator_set(CONV), 18)
    assert isinstance(verdict, Unknown)
    assert verdict.reasons[0].rule == missing


def test_a_limit_may_end_where_public_knowledge_ends() -> None:
    row = {**CONV, "constraints": [limit("attr('group') == 1", verdict="unknown")]}
    assert isinstance(check(node("Conv", X, W, group=1), operator_set(row), 18), Legal)
    assert isinstance(check(node("Conv", X, W, group=2), operator_set(row), 18), Unknown)
    wrong = check(node("Conv", value("x", ir.DataType.INT8), W, group=2), operator_set(row), 18)
    assert isinstance(wrong, Illegal)
    assert [r.verdict for r in wrong.reasons] == ["illegal", "unknown"]


def test_a_text_that_no_expression_says_decides_nothing() -> None:
    row = {**CONV, "constraints": [limit(None)]}
    assert isinstance(check(node("Conv", X, W), operator_set(row), 18), Legal)


def test_unlisted_operators() -> None:
    relu = node("Relu", X)
    assert isinstance(check(relu, operator_set(CONV), 18), Illegal)
    assert isinstance(check(relu, operator_set(CONV, unlisted="unknown"), 18), Unknown)
    assert check(relu, operator_set(CONV, unlisted="legal"), 18) == Legal()


def test_refused_operators_say_why() -> None:
    refused = {"Loop": {"reason": "no plug-in", "source": "table 9"}}
    verdict = check(node("Loop", X), operator_set(CONV, refused=refused, unlisted="legal"), 18)
    assert isinstance(verdict, Illegal)
    assert (verdict.reasons[0].allowed, verdict.reasons[0].source) == ("no plug-in", "table 9")


def test_what_only_the_library_has_is_told() -> None:
    operators = operator_set(CONV, unlisted="unknown", library={"Sqrt": "mluOpSqrt is a library function"})
    verdict = check(node("Sqrt", X), operators, 11)
    assert isinstance(verdict, Unknown)
    assert verdict.reasons[0].met == "Sqrt (mluOpSqrt is a library function)"


def test_dtypes_that_the_chip_lacks() -> None:
    refused = {"float8e4m3fn": {"reason": "no float8", "source": "data sheet"}}
    x = value("x", ir.DataType.FLOAT8E4M3FN, [1])
    for unlisted in ("illegal", "unknown", "legal"):
        verdict = check(node("Relu", x), operator_set(CONV, refused_dtypes=refused, unlisted=unlisted), 18)
        assert isinstance(verdict, Illegal)
        assert verdict.reasons[0].allowed == "no float8"


def test_dtypes_that_the_surface_converts() -> None:
    row = {"operator": "Relu", "inputs": [{"name": "X", "dtypes": ["int32"]}]}
    x = value("x", ir.DataType.INT64, [1])
    assert isinstance(check(node("Relu", x), operator_set(row), 18), Illegal)
    assert isinstance(check(node("Relu", x), operator_set(row, converted_dtypes={"int64": "int32"}), 18), Legal)


def test_combinations_are_not_independent_lists() -> None:
    row = {
        "operator": "Add",
        "inputs": [{"name": "A"}, {"name": "B"}],
        "combinations": [["float16", "float16", None], ["float32", "float32", None]],
    }
    half, single = value("a", ir.DataType.FLOAT16, [1]), value("b", ir.DataType.FLOAT, [1])
    assert isinstance(check(node("Add", half, half), operator_set(row), 18), Legal)
    verdict = check(node("Add", half, single), operator_set(row), 18)
    assert isinstance(verdict, Illegal)
    assert verdict.reasons[0].met == "A float16, B float32, Y float16"


def test_of_several_forms_the_closest_speaks() -> None:
    integer = {
        "operator": "Conv",
        "form": "int8",
        "inputs": [{"name": "X", "dtypes": ["int8"]}, {"name": "W", "dtypes": ["int8"]}],
        "constraints": [limit("producer(X) == 'AscendQuant'", verdict="unknown")],
    }
    operators = operator_set(CONV, integer)
    x, w = value("x", ir.DataType.INT8, [1, 3, 8, 8]), value("w", ir.DataType.INT8, [4, 3, 1, 1])
    verdict = check(node("Conv", x, w), operators, 18)
    assert isinstance(verdict, Unknown)
    assert verdict.reasons[0].met == "producer(X) = ''"
    quantized = node("AscendQuant", X).outputs[0]
    quantized.dtype = ir.DataType.INT8
    assert isinstance(check(node("Conv", quantized, w), operators, 18), Legal)


def test_an_operand_without_a_place_is_a_reason() -> None:
    row = {"operator": "MatMul", "inputs": [{"name": "A"}, {"name": "B"}]}
    assert isinstance(check(node("MatMul", X, W), operator_set(row), 18), Legal)
    verdict = check(node("MatMul", X, W, X), operator_set(row), 18)
    assert isinstance(verdict, Illegal)
    assert verdict.reasons[0].met == "input 2 given"


def test_variadic_operands_are_all_checked() -> None:
    row = {"operator": "Concat", "inputs": [{"name": "inputs", "dtypes": ["float16"], "variadic": True}]}
    assert isinstance(check(node("Concat", X, X, X, axis=0), operator_set(row), 18), Legal)
    wrong = value("z", ir.DataType.INT8, [1])
    assert isinstance(check(node("Concat", X, X, wrong, axis=0), operator_set(row), 18), Illegal)


COMPOSITE = {
    "operator": "VendorMatMul",
    "implements": "porting.IntegerMatMul",
    "inputs": [
        {"name": "b", "operand": 1, "dtypes": ["uint64"], "packer": "nz"},
        {"name": "a", "operand": 0, "dtypes": ["int8"]},
    ],
    "attributes": {
        "flag": {"type": "int", "constant": 1},
        "code": {"type": "int", "from": "dtype", "values": [[1, 0], [10, 1]]},
        "needed": {"type": "float", "from": "scale", "required": True},
    },
    "constraints": [
        limit("rank(a) == 2 and attr('flag') == 1 and attr('code') == 1"),
        limit("attr('a_zero_point') in [0, None]", verdict="unknown", composite=True),
    ],
}


def test_a_composite_operator_is_judged_by_the_row_that_implements_it() -> None:
    a, b = value("a", ir.DataType.INT8, [2, 8]), value("b", ir.DataType.INT8, [8, 4])
    operators = operator_set(COMPOSITE)
    made = node("IntegerMatMul", a, b, domain="porting", dtype=10, scale=0.5)
    assert isinstance(check(made, operators, 18), Legal)  # operands in another order, b packed, attributes mapped
    offset = node("IntegerMatMul", a, b, domain="porting", dtype=10, scale=0.5, a_zero_point=3)
    assert isinstance(check(offset, operators, 18), Unknown)
    without = check(node("IntegerMatMul", a, b, domain="porting", dtype=10), operators, 18)
    assert isinstance(without, Illegal)
    assert without.reasons[0].rule == "attribute needed"
    assert isinstance(check(node("IntegerMatMul", a, b, domain="porting", dtype=16, scale=1.0), operators, 18), Illegal)


def test_a_following_node_makes_a_place_for_an_operand() -> None:
    a, b, bias = (value(n, ir.DataType.INT8, [2, 8]) for n in "abc")
    made = node("IntegerMatMul", a, b, bias, domain="porting", dtype=10, scale=0.5)
    assert isinstance(check(made, operator_set(COMPOSITE), 18), Illegal)
    assert isinstance(check(made, operator_set({**COMPOSITE, "follow": {"operator": "Add", "operand": 2}}), 18), Legal)


def test_symbolic_dimensions_are_decided_for_the_whole_range() -> None:
    row = {"operator": "Relu", "inputs": [{"name": "X"}], "constraints": [limit("dim(X, 0) <= 6")]}
    relu = node("Relu", value("x", shape=["n", 4]))
    operators = operator_set(row)
    assert isinstance(check(relu, operators, 18, {"n": (1, 6)}), Legal)
    verdict = check(relu, operators, 18, {"n": (1, 8)})
    assert isinstance(verdict, Illegal)
    assert verdict.reasons[0].met == "n = 7; dim(X, 0) = 7"
    assert isinstance(check(relu, operators, 18), Unknown)


def test_verdicts_are_kept_for_equal_nodes_and_not_for_others() -> None:
    operators = operator_set(CONV)
    first = check(node("Conv", X, W), operators, 18)
    assert check(node("Conv", value("other", shape=[9, 9, 9, 9]), W), operators, 18) is not first  # rows look at shapes
    assert check(node("Conv", value("renamed", shape=[1, 3, 8, 8]), W), operators, 18) is first


def test_an_equal_node_costs_a_look_up_whatever_the_size_of_the_operator_set(count_calls) -> None:
    few, many = operator_set(CONV), operator_set(*[{**CONV, "form": str(i)} for i in range(50)])
    costs = []
    for operators in (few, many):
        check(node("Conv", X, W), operators, 18)
        again = node("Conv", X, W)
        costs.append(count_calls(lambda again=again, operators=operators: check(again, operators, 18)))
    assert costs[0] == costs[1] < 200, costs
