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
