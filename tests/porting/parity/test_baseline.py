from __future__ import annotations

import copy
import json
import os

import pytest

from porting.errors import UsageError
from porting.parity import baseline

METRICS = {"sqnr_db": 30.0, "nan_count": 0, "inf_count": 0, "mismatches": None}


@pytest.fixture
def stored():
    return {
        "schema_version": 1, "source": "sha256:0", "backend": "b", "surface": "s", "scheme": "w8a8-static",
        "dtype": "float32", "numerics": "backend", "inputs": "user", "samples": 4,
        "outputs": [{"name": "y", **METRICS}],
        "layers": [{"name": "c", "isolated": {**METRICS, "sqnr_db": 140.0}}, {"name": "d", "isolated": None}],
    }  # fmt: skip


def failed(now, stored, **options):
    return [(c.subject, c.metric) for c in baseline.compare(now, stored, **options) if c.verdict == "fail"]


def test_the_same_measurement_holds(stored):
    checks = baseline.compare(stored, stored)
    assert [c.subject for c in checks] == ["output y", "layer c"]
    assert {c.verdict for c in checks} == {"pass"}


@pytest.mark.parametrize(("drop", "worse"), [(0.9, False), (1.1, True)])
def test_a_drop_beyond_the_tolerance_is_a_regression(stored, drop, worse):
    now = copy.deepcopy(stored)
    now["outputs"][0]["sqnr_db"] -= drop
    assert failed(now, stored) == ([("output y", "sqnr_db")] if worse else [])
    assert failed(now, stored, tolerance_db=2.0) == []


def test_float32_noise_is_no_regression(stored):
    now = copy.deepcopy(stored)
    now["layers"][0]["isolated"]["sqnr_db"] = 105.0
    assert failed(now, stored) == []
    now["layers"][0]["isolated"]["sqnr_db"] = 95.0
    assert failed(now, stored) == [("layer c", "sqnr_db")]


@pytest.mark.parametrize("metric", ["nan_count", "inf_count", "mismatches"])
def test_counts_may_not_rise(stored, metric):
    now = copy.deepcopy(stored)
    now["outputs"][0][metric] = 1
    assert failed(now, stored) == [("output y", metric)]
    assert failed(stored, now) == []


def test_a_value_that_is_gone_fails_and_a_new_one_does_not(stored):
    now = copy.deepcopy(stored)
    now["layers"] = []
    assert failed(now, stored) == [("layer c", "presence")]
    assert failed(stored, now) == []


@pytest.mark.parametrize("key", ["source", "backend", "scheme", "dtype", "inputs", "samples"])
def test_another_measurement_is_bad_usage(stored, key):
    now = {**stored, key: "other"}
    with pytest.raises(UsageError, match=key) as error:
        baseline.compare(now, stored)
    assert error.value.exit_code == 2


def test_stored_and_loaded(stored, tmp_path):
    path = tmp_path / "ci" / "baseline.json"
    baseline.store(stored, path)
    assert baseline.load(path) == stored
    assert path.read_text().endswith("}\n")
    assert os.listdir(path.parent) == ["baseline.json"]


def test_a_failed_update_leaves_the_old_baseline(stored, tmp_path):
    path = tmp_path / "baseline.json"
    baseline.store(stored, path)
    with pytest.raises(ValueError, match="JSON"):
        baseline.store({**stored, "samples": float("nan")}, path)
    assert baseline.load(path) == stored
    assert os.listdir(tmp_path) == ["baseline.json"]


@pytest.mark.parametrize("text", ["{", "[]", "{}", json.dumps({"schema_version": 99})])
def test_a_damaged_baseline_is_bad_usage(tmp_path, text):
    path = tmp_path / "baseline.json"
    path.write_text(text)
    with pytest.raises(UsageError):
        baseline.load(path)


def test_a_missing_baseline_says_how_to_make_one(tmp_path):
    with pytest.raises(UsageError) as error:
        baseline.load(tmp_path / "none.json")
    assert "--update-baseline" in str(error.value)
