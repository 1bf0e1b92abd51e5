"""Options that contradict themselves or say nothing are errors, not silently one of the two."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from porting.cli import check, port
from porting.errors import UsageError

MODEL = Path(__file__).parents[3] / "examples" / "cnn" / "model.onnx"


def run(command: click.Command, *arguments: object) -> Result:
    return CliRunner().invoke(
        command, [str(MODEL), "--backend", "reference", *map(str, arguments)], standalone_mode=False
    )


@pytest.mark.parametrize(
    ("option", "values"), {"--dim": ("batch=1", "batch=2"), "--shape": ("x=1x2", "x=2x2")}.items(), ids=str
)
def test_two_values_of_one_name_are_a_usage_error(option: str, values: tuple[str, str]) -> None:
    error = run(check.command, option, values[0], option, values[1]).exception
    assert isinstance(error, UsageError)
    assert f"{option} says two things" in str(error)


@pytest.mark.parametrize(
    "option", ["--dim=batch=99999999999999999999", "--dim=batch=1..2147483648", "--shape=x=99999999999x1"]
)
def test_a_dimension_beyond_31_bits_is_a_usage_error(option: str) -> None:
    error = run(check.command, option).exception
    assert isinstance(error, click.BadParameter)
    assert "2147483647" in error.message


@pytest.mark.parametrize("option", [("--calibrate", "x.npz"), ("--calibration-method", "minmax")], ids="".join)
def test_calibration_without_a_scheme_that_needs_it_is_a_usage_error(tmp_path: Path, option: tuple[str, str]) -> None:
    error = run(port.command, *option, "-o", tmp_path / "out").exception
    assert isinstance(error, UsageError)
    assert "say nothing to scheme 'none'" in str(error)
    assert not (tmp_path / "out").exists()


def test_a_permission_that_lets_nothing_through_is_noted() -> None:
    for more in ((), ("--as-is",)):
        result = run(check.command, "--allow-unknown", "Nope", *more)
        assert result.return_value == 0
        assert "--allow-unknown Nope: no node" in result.stderr


@pytest.mark.parametrize("option", ["--inputs", "--calibrate", "--budget", "-o"])
def test_an_empty_path_is_a_usage_error(tmp_path: Path, option: str) -> None:
    error = run(port.command, "-o", tmp_path / "out", option, "").exception
    assert isinstance(error, click.BadParameter)
    assert "the path is empty" in error.message
