"""Function bodies from ONNX's textual form, and what no node does there: attributes as tensors, words compared."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx_ir as ir

from porting_kernels.errors import PortingError


def parse(
    text: str, opset: int, domain: str = "porting", *, overload: str = "", others: Sequence[str] = ()
) -> ir.Function:
    """A function from ``Name <attributes> (inputs) => (outputs) { nodes }``, its nodes at ``opset``.

    others: domains that the nodes come from besides ONNX's own. PortingError for text that ONNX does not read.
    """
    imports = ", ".join([f'"" : {opset}', *(f'"{other}" : 1' for other in others)])
    named = f', overload: "{overload}"' if overload else ""
    try:
        proto = onnx.parser.parse_function(f'<opset_import: [{imports}], domain: "{domain}"{named}> {text}')
    except onnx.parser.ParseError as error:
        raise PortingError("the text of a function does not parse", met=str(error), where=text.split("(")[0]) from error
    return ir.serde.deserialize_function(proto)


def float_attribute(attribute: str, result: str, opset: int) -> str:
    """Nodes that make ``result``, a float32 scalar, of the function's float attribute.

    Before opset 12 Constant cannot refer to an attribute; the slope of LeakyRelu at -1 can.
    """
    if opset >= 12:
        return f"{result} = Constant <value_float: float = @{attribute}> ()"
    return f"""
        {result}_one = Constant <value = float {{-1.0}}> ()
        {result}_minus = LeakyRelu <alpha: float = @{attribute}> ({result}_one)
        {result} = Neg ({result}_minus)"""


def int8_attribute(attribute: str, result: str, opset: int) -> str:
    """Nodes that make ``result``, an int64 scalar, of the function's int attribute, which lies in [-128, 127].

    Before opset 12 Constant cannot refer to an attribute; the diagonal of EyeLike can: row 128 of a 129 x 256 matrix
    has its 1 in column 128 + k.
    """
    if opset >= 12:
        return f"{result} = Constant <value_int: int = @{attribute}> ()"
    return f"""
        {result}_shape = Constant <value = int64[2] {{129, 256}}> ()
        {result}_zeros = ConstantOfShape ({result}_shape)
        {result}_eye = EyeLike <k: int = @{attribute}> ({result}_zeros)
        {result}_last = Constant <value = int64 {{128}}> ()
        {result}_row = Gather <axis = 0> ({result}_eye, {result}_last)
        {result}_column = ArgMax <axis = 0, keepdims = 0> ({result}_row)
        {result} = Sub ({result}_column, {result}_last)"""


def int_attribute(attribute: str, result: str) -> str:
    """Nodes that make ``result``, int64[1], of the function's int attribute; from opset 12."""
    return f"""
        {result}_scalar = Constant <value_int: int = @{attribute}> ()
        {result}_shape = Constant <value = int64[1] {{1}}> ()
        {result} = Reshape ({result}_scalar, {result}_shape)"""


def attribute_is(attribute: str, word: str, result: str) -> str:
    """Nodes that make ``result``, bool[1]: whether the function's string attribute is a word; from opset 12.

    Equal takes no strings before opset 19; TfIdfVectorizer counts, at every opset, how often a word occurs.
    """
    return f"""
        {result}_scalar = Constant <value_string: string = @{attribute}> ()
        {result}_shape = Constant <value = int64[1] {{1}}> ()
        {result}_words = Reshape ({result}_scalar, {result}_shape)
        {result}_count = TfIdfVectorizer <mode = "TF", min_gram_length = 1, max_gram_length = 1, max_skip_count = 0,
            ngram_counts = [0], ngram_indexes = [0], pool_strings = ["{word}"]> ({result}_words)
        {result} = Cast <to = 9> ({result}_count)"""


def row_blocks(rows: str, width: str, elements: int) -> str:
    """Nodes that make ``block``, an int64 scalar, how many rows have about so many elements, and ``starts`` of blocks.

    rows, width: names of int64[1] values. There is one block, of padding, where there are no rows.
    """
    return f"""
        block_one = Constant <value = int64 {{1}}> ()
        block_zero = Constant <value = int64 {{0}}> ()
        block_axis = Constant <value = int64[1] {{0}}> ()
        block_elements = Constant <value = int64 {{{elements}}}> ()
        rows_scalar = Squeeze ({rows}, block_axis)
        rows_end = Max (rows_scalar, block_one)
        width_scalar = Squeeze ({width}, block_axis)
        width_least = Max (width_scalar, block_one)
        block_fitting = Div (block_elements, width_least)
        block_most = Max (block_fitting, block_one)
        block = Min (block_most, rows_end)
        block_vector = Unsqueeze (block, block_axis)
        starts = Range (block_zero, rows_end, block)"""


def block_of(x: str, result: str) -> str:
    """Nodes, in the body of a Scan over ``start``, that make a block of rows in float32; zeros where rows end."""
    return f"""
        start_vector = Unsqueeze (start, block_axis)
        end_vector = Add (start_vector, block_vector)
        block_narrow = Slice ({x}, start_vector, end_vector, block_axis)
        block_rows = Cast <to = 1> (block_narrow)
        block_shape = Shape (block_rows)
        block_met = Gather (block_shape, block_axis)
        block_lacking = Sub (block_vector, block_met)
        block_pads = Concat <axis = 0> (block_axis, block_axis, block_lacking, block_axis)
        {result} = Pad (block_rows, block_pads)"""
