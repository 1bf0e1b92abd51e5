from __future__ import annotations

import json

import pytest

from porting import schemas
from porting.errors import UsageError
from porting.parity.budgets import METRICS, default_budget, load_budget

LINE = {"question": "outputs", "metric": "sqnr_db", "min": 30}


@pytest.fixture
def user_file(tmp_path):
    def write(document):
        path = tmp_path / "mine.json"
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return path

    return write


def limits(budget, **value):
    return {m.metric: m.bound for m in budget.of("outputs", **{"dtype": "float32", "name": "y", **value})}


def test_defaults_are_what_the_documents_promise():
    budget = default_budget()
    assert limits(budget, scheme="w8a8-static") == {
        "cosine": 0.99, "sqnr_db": 20.0, "nonfinite_count": 0.0, "mismatch_fraction": 0.02,
    }  # fmt: skip
    for dtype, bound in (("float32", 1e-5), ("float16", 2e-3), ("bfloat16", 1.6e-2)):
        for question in ("outputs", "isolated"):
            assert budget.bound(question, "rel_l2", scheme="none", dtype=dtype, default=-1) == bound
    for dtype, bound in (("float32", 1e-5), ("float16", 2e-3), ("bfloat16", 1e-5)):
        assert budget.bound("fidelity", "rel_l2", scheme="none", dtype=dtype, default=-1) == bound


def test_every_default_limit_has_a_source():
    for limit in default_budget().limits:
        assert len(limit.source) > 20, limit


def test_a_user_line_wins_over_a_more_specific_default(user_file):
    budget = load_budget(user_file({"schema_version": 1, "limits": [LINE]}))
    assert limits(budget, scheme="w8a8-static") == {
        "cosine": 0.99, "sqnr_db": 30.0, "nonfinite_count": 0.0, "mismatch_fraction": 0.02,
    }  # fmt: skip
    assert budget.file == "mine.json"


def test_among_user_lines_the_specific_one_wins(user_file):
    lines = [{**LINE, "name": "box*", "min": 40}, LINE, {**LINE, "dtype": "float16", "min": 35}]
    budget = load_budget(user_file({"schema_version": 1, "limits": lines}))
    assert limits(budget, scheme="none", name="boxes")["sqnr_db"] == 40
    assert limits(budget, scheme="none", name="y", dtype="float16")["sqnr_db"] == 35
    assert limits(budget, scheme="none", name="y")["sqnr_db"] == 30


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ("{", "not JSON"),
        ([], "the file"),
        ({"limits": []}, "schema_version"),
        ({"schema_version": 2, "limits": []}, "schema_version"),
        ({"schema_version": 1, "limits": {}}, "limits"),
        ({"schema_version": 1, "limits": [], "limit": []}, "'limit'"),
        ({"schema_version": 1, "limits": [{**LINE, "sheme": "none"}]}, "'sheme'"),
        ({"schema_version": 1, "limits": [{**LINE, "min": "30"}]}, "limits[0].min"),
        ({"schema_version": 1, "limits": [{**LINE, "min": True}]}, "limits[0].min"),
        ('{"schema_version": 1, "limits": [{"question": "outputs", "metric": "cosine", "min": NaN}]}', "limits[0].min"),
        ({"schema_version": 1, "limits": [{**LINE, "max": 1}]}, "max and min"),
        ({"schema_version": 1, "limits": [{"question": "outputs", "metric": "sqnr_db", "max": 1}]}, "'min'"),
        ({"schema_version": 1, "limits": [LINE, {**LINE, "question": "speed"}]}, "limits[1].question"),
        ({"schema_version": 1, "limits": [{**LINE, "metric": "snr"}]}, "limits[0].metric"),
        ({"schema_version": 1, "limits": [{**LINE, "dtype": 16}]}, "limits[0].dtype"),
        ({"schema_version": 1, "limits": [{"question": "outputs", "min": 1}]}, "'metric'"),
    ],
)
def test_a_bad_file_is_an_error_that_names_key_and_file(user_file, document, named):
    path = user_file(document)
    with pytest.raises(UsageError) as error:
        load_budget(path)
    assert error.value.exit_code == 2
    assert named in str(error.value)
    assert str(path) in str(error.value)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="cannot read"):
        load_budget(tmp_path / "none.json")


def test_the_written_form_reads_back(user_file):
    written = default_budget().to_json(scheme="none", dtype="float16")
    lines = [{k: v for k, v in line.items() if k != "user"} for line in written["limits"]]
    document = {"schema_version": 1, "limits": lines}
    schemas.validate("budget", document)
    read = load_budget(user_file(document))
    assert limits(read, scheme="none", dtype="float16") == limits(default_budget(), scheme="none", dtype="float16")


def test_schema_and_code_know_the_same_metrics():
    line = schemas.load("budget")["properties"]["limits"]["items"]["properties"]
    assert set(line["metric"]["enum"]) == set(METRICS)
