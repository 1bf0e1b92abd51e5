"""Backends as values: surfaces, schemes, dtypes, and numerics that can be switched on line by line."""

from __future__ import annotations

import pytest

from porting import backends
from porting.backends import NumericsLine, NumericsTable
from porting.errors import BackendError
from porting_kernels.numerics import EXACT, Numerics


def test_surfaces_by_name() -> None:
    backend = backends.get("ascend-910b")
    assert backend.surface().name == "atc-onnx"
    assert backend.surface("atc-onnx") is backend.surface()
    with pytest.raises(backends.UnknownSurfaceError) as caught:
        backend.surface("atc_onnx")
    assert (caught.value.required, caught.value.fix) == ("atc-onnx, torch_npu", "did you mean 'atc-onnx'?")


def test_schemes_and_dtypes() -> None:
    surface = backends.get("cambricon-mlu370").surface()
    assert surface.require_scheme("w8a8-static") == "w8a8-static"
    with pytest.raises(backends.UnknownSchemeError, match="did you mean 'w8a8-static'") as caught:
        surface.require_scheme("w8a8")
    assert caught.value.exit_code == 2
    assert surface.require_dtype("float16") == "float16"
    with pytest.raises(backends.UnknownDtypeError, match="float16, float32"):
        surface.require_dtype("bfloat16")


LINES = (
    NumericsLine("quantize_rounding", "half_away", "page 1", "doc"),
    NumericsLine("dequantize_scale", "fp19", "page 2", "measured"),
)


def test_numerics_line_by_line() -> None:
    table = NumericsTable(LINES)
    assert table.numerics() == Numerics(quantize_rounding="half_away", dequantize_scale="fp19")
    assert table.numerics(["dequantize_scale"]) == Numerics(dequantize_scale="fp19")
    assert table.numerics([]) == EXACT == NumericsTable().numerics()


@pytest.mark.parametrize(
    "lines",
    [LINES + LINES[:1], (NumericsLine("accumulator", "int32", "page 3", "doc"),)],
    ids=["twice", "unknown field"],
)
def test_numerics_tables_that_contradict_themselves(lines: tuple[NumericsLine, ...]) -> None:
    with pytest.raises(BackendError):
        NumericsTable(lines)


def test_numerics_values_are_checked() -> None:
    with pytest.raises(ValueError, match="half_even, half_away, half_up"):
        NumericsTable((NumericsLine("quantize_rounding", "up", "page 1", "doc"),))


@pytest.mark.parametrize("name", backends.names())
def test_every_line_and_row_names_its_source(name: str) -> None:
    backend = backends.get(name)
    assert all(line.source and line.evidence for line in backend.numerics.lines)
    for surface in backend.surfaces.values():
        assert surface.operator_set.surface == surface.name
        assert all(limit.source for row in surface.operator_set.rows for limit in row.constraints)
        if surface.quantization is not None:
            assert all(rule.source and rule.reason for rule in surface.quantization.keep_float)
            assert "operators" in surface.quantization.sources


def test_a_language_model_with_a_misspelt_scheme_is_told_of_the_surface_that_it_would_have_got() -> None:
    backend = backends.get("ascend-910b")
    assert backend.surface(scheme="w8a8", language_model=True).name == "torch_npu"
    assert backend.surface(scheme="w8a88", language_model=True).name == "torch_npu"
    assert backend.surface(scheme="w8a8-static", language_model=True).name == "atc-onnx"
