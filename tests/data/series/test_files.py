"""Formats of series: round trips, what a folder search takes, and what is wrong with broken files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.core.errors import DataError
from lab.data.series import jsonl, parquet, table
from lab.data.series.files import ReadOptions, files_of, read_series
from lab.data.series.frequency import Frequency
from lab.data.series.series import Series, digest, from_record, to_record

MONTHLY = ReadOptions(Frequency.parse("M"))
DAILY = ReadOptions(Frequency.parse("D"), dynamic=("d0",))
START = np.datetime64("2020-01-01T00:00:00", "s")


def some_series() -> list[Series]:
    first = np.asarray([1.5, np.nan, 3.0, 4.25, 5.0])
    dynamic = np.arange(10, dtype=np.float32).reshape(2, 5)
    return [
        Series("a", START, first, (0, 2), (0.5,), dynamic),
        Series("b", np.datetime64("2021-03-01T00:00:00", "s"), np.asarray([7.0, 8.0]), (1, 0), (1.5,), dynamic[:, :2]),
    ]


def assert_equal(found: list[Series], expected: list[Series]) -> None:
    assert digest(found) == digest(expected)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours.target_T, theirs.target_T)
        assert (ours.name, ours.start, ours.cat, ours.static_real) == (
            theirs.name, theirs.start, theirs.cat, theirs.static_real,
        )  # fmt: skip


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.json.gz"])
def test_json_lines_round_trip(tmp_path: Path, name: str) -> None:
    jsonl.write(some_series(), tmp_path / name)
    assert_equal(read_series(tmp_path / name, "jsonl", MONTHLY), some_series())


def test_parquet_round_trip(tmp_path: Path) -> None:
    parquet.write(some_series(), tmp_path / "a.parquet")
    assert_equal(read_series(tmp_path, "parquet", MONTHLY), some_series())


def test_parquet_as_sagemaker_s_users_write_it(tmp_path: Path) -> None:
    rows = pa.table({"start": ["2020-01-01 00:00:00"], "target": [[1.0, float("nan"), 3.0]], "cat": [[4]]})
    pq.write_table(rows, tmp_path / "part-0.parquet", compression="snappy")
    (one,) = parquet.read(tmp_path / "part-0.parquet", MONTHLY)
    assert one.cat == (4,)
    np.testing.assert_array_equal(one.target_T, [1, np.nan, 3])


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_long_table_round_trip(tmp_path: Path, name: str) -> None:
    daily = [
        Series("x", START, np.asarray([1.0, 2.0, 4.5]), dynamic_DT=np.ones((1, 3), np.float32)),
        Series(
            "y", START + np.timedelta64(86400, "s"), np.asarray([3.0, 2.0]), dynamic_DT=np.zeros((1, 2), np.float32)
        ),
    ]
    table.write(daily, tmp_path / name, DAILY.frequency)
    assert_equal(read_series(tmp_path / name, "table", DAILY), daily)


def test_a_long_parquet_table_reads_like_the_csv(tmp_path: Path) -> None:
    stamps = np.asarray(["2020-01", "2020-02", "2020-04"], "datetime64[s]")
    pq.write_table(
        pa.table({"id": ["s"] * 3, "time": stamps.astype("datetime64[ms]"), "value": [1, 2, 4]}), tmp_path / "t.parquet"
    )
    (one,) = read_series(tmp_path / "t.parquet", "table", MONTHLY)
    np.testing.assert_array_equal(one.target_T, [1, 2, np.nan, 4])
    assert one.start == stamps[0]


def test_a_folder_is_searched_as_sagemaker_does(tmp_path: Path) -> None:
    for name in ["b/2.json", "a.json.gz", "_SUCCESS", ".hidden.json", ".git/3.json", "readme.txt"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [str(path.relative_to(tmp_path)) for path in files_of(tmp_path, (".json", ".json.gz"))]
    assert found == ["a.json.gz", "b/2.json"]
    with pytest.raises(DataError, match="no series at"):
        files_of(tmp_path / "nowhere", (".json",))


_ROWS = {
    "not an object": "[1, 2]",
    "no target": '{"start": "2020-01-01 00:00:00"}',
    "no JSON": '{"start": "2020-01-01 00:00:00", "target": [1, 2',
    "a word in the target": '{"start": "2020-01-01", "target": [1, "two"]}',
    "infinity": '{"start": "2020-01-01", "target": [1, Infinity]}',
    "no time": '{"start": "yesterday", "target": [1]}',
    "a time zone's time": '{"start": "12:00", "target": [1]}',
    "a negative category": '{"start": "2020-01-01", "target": [1], "cat": [-1]}',
    "a fractional category": '{"start": "2020-01-01", "target": [1], "cat": [0.5]}',
    "a missing dynamic value": '{"start": "2020-01-01", "target": [1, 2], "dynamic_feat": [[1, null]]}',
    "a short dynamic feature": '{"start": "2020-01-01", "target": [1, 2], "dynamic_feat": [[1]]}',
}


@pytest.mark.parametrize("what", sorted(_ROWS))
def test_a_broken_line_is_named(tmp_path: Path, what: str) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"start": "2020-01-01 00:00:00", "target": [1]}\n\n' + _ROWS[what] + "\n")
    with pytest.raises(DataError) as error:
        jsonl.read(path, MONTHLY)
    assert f"{path}:3" in error.value.message()


def test_missing_values_have_three_spellings() -> None:
    record = {"start": "2020-01-01 00:00:00", "target": [1, None, "NaN", float("nan"), 2]}
    found = from_record(record, "r").target_T
    np.testing.assert_array_equal(found, [1, np.nan, np.nan, np.nan, 2])


def test_a_request_s_dynamic_features_reach_beyond_the_target() -> None:
    record = {"start": "2020-01-01", "target": [1, 2], "dynamic_feat": [[1, 2, 3, 4]]}
    assert from_record(record, "r", horizon=2).dynamic_DT.shape == (1, 4)
    with pytest.raises(DataError, match="wrong length"):
        from_record(record, "r", horizon=3)
    with pytest.raises(DataError, match="wrong length"):
        from_record(record, "r")


def test_damaged_gzip_and_parquet_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(b'{"start": 1}' * 50)[:-20])
    (tmp_path / "a.parquet").write_bytes(b"PAR1nonsense")
    for name, kind in [("a.json.gz", "jsonl"), ("a.parquet", "parquet")]:
        with pytest.raises(DataError, match=name):
            read_series(tmp_path / name, kind, MONTHLY)


def csv_of(tmp_path: Path, times: list[str], values: list[object] | None = None) -> Path:
    path = tmp_path / "t.csv"
    numbers = values or list(range(len(times)))
    rows = [f"s,{time},{value}\n" for time, value in zip(times, numbers, strict=True)]
    path.write_text("id,time,value\n" + "".join(rows))
    return path


def test_left_out_rows_and_empty_values_are_missing(tmp_path: Path) -> None:
    path = csv_of(tmp_path, ["2020-01-15", "2020-02-03", "2020-05-01"], [1, "", 5])
    (one,) = table.read(path, MONTHLY)
    np.testing.assert_array_equal(one.target_T, [1, np.nan, np.nan, np.nan, 5])


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (["2020-02-01", "2020-01-01"], "not in order of time"),
        (["2020-01-01", "2020-01-01"], "same step of M"),
        (["2020-01-01", "2020-01-20"], "same step of M"),
        (["2020-01-01", "tomorrow"], "a time cannot be read"),
    ],
)
def test_times_that_do_not_fit_are_named(tmp_path: Path, times: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        table.read(csv_of(tmp_path, times), MONTHLY)
    assert "'s'" in error.value.what


def test_a_wrong_frequency_is_named(tmp_path: Path) -> None:
    path = csv_of(tmp_path, ["2020-01-01 00:00", "2020-01-01 01:00", "2020-01-01 02:00"])
    with pytest.raises(DataError, match="does not fit the frequency 2H"):
        table.read(path, ReadOptions(Frequency.parse("2H")))
    assert len(table.read(path, ReadOptions(Frequency.parse("H")))[0]) == 3


def test_other_faults_of_a_table(tmp_path: Path) -> None:
    path = csv_of(tmp_path, ["2020-01-01", "2020-02-01"], ["1", "two"])
    with pytest.raises(DataError, match="other than numbers"):
        table.read(path, MONTHLY)
    with pytest.raises(DataError, match="lacks columns") as error:
        table.read(path, ReadOptions(Frequency.parse("M"), value="sales"))
    assert error.value.expected == "sales"
    path.write_text("id,time,value\ns,2020-01-01\n")
    with pytest.raises(DataError, match="another number of columns"):
        table.read(path, MONTHLY)
    path.write_text("id,time,value\n")
    with pytest.raises(DataError, match="no rows"):
        table.read(path, MONTHLY)


@given(
    st.lists(st.none() | st.floats(-1e6, 1e6, allow_nan=False), max_size=20),
    st.lists(st.integers(0, 9), max_size=3),
    st.datetimes(),
)
def test_any_record_survives_json(target: list[float | None], cat: list[int], start: object) -> None:
    stamp = np.datetime64(start, "s")
    values = np.asarray([np.nan if value is None else value for value in target], np.float64)
    series = Series("s", stamp, values, tuple(cat))
    if int(str(stamp)[:4]) >= 1000:
        again = from_record(json.loads(json.dumps(to_record(series))), "s")
        assert_equal([again], [series])
