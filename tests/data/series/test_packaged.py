"""The catalog's series: what their files say, read from small files of the same form."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lab.core.errors import ConfigError, DataError
from lab.data.catalog import CATALOG
from lab.data.series import competitions, simbench
from lab.data.series.catalog import KNOWN, SERIES_ENTRIES
from lab.data.series.frequency import Frequency
from lab.data.series.packaged import known


def test_every_known_data_set_is_in_the_catalog() -> None:
    assert {entry.name for entry in SERIES_ENTRIES} == set(KNOWN) <= set(CATALOG)
    for name, one in KNOWN.items():
        Frequency.parse(one.frequency)
        assert CATALOG[name].files[0].sha256
    with pytest.raises(ConfigError, match="no data set of time series") as error:
        known("tourism-montly")
    assert "tourism-monthly" in str(error.value.hint)


def test_competition_series_are_training_then_test(tmp_path: Path) -> None:
    records = {
        "M1": {"period": ["MONTHLY"], "x": [1, 2, 3], "xx": [4, 5]},
        "Y1": {"period": ["YEARLY"], "x": [9], "xx": [8]},
    }
    (tmp_path / "t.json").write_text(json.dumps(records))
    (one,) = competitions.read(tmp_path / "t.json", "MONTHLY")
    assert (one.name, one.target_T.tolist()) == ("M1", [1, 2, 3, 4, 5])
    (tmp_path / "t.json").write_text('{"M1": {"x": []}}')
    with pytest.raises(DataError, match="cannot be read"):
        competitions.read(tmp_path / "t.json", "MONTHLY")


def test_load_profiles_become_distinct_hourly_means(tmp_path: Path) -> None:
    rows = ["time;A_qload;A_pload;B_pload;C_pload;D_pload"]
    for quarter in range(8):
        stamp = f"01.01.2016 {quarter // 4:02}:{quarter % 4 * 15:02}"
        rows.append(f"{stamp};9;{quarter};{quarter};0;{2 * quarter}")
    (tmp_path / "p.csv").write_text("\n".join(rows))
    found = simbench.read_hourly(tmp_path / "p.csv")
    assert [one.name for one in found] == ["A", "D"]  # B is a copy of A, C is all zero
    np.testing.assert_allclose(found[0].target_T, [1.5, 5.5])
    assert found[0].start == np.datetime64("2016-01-01T00:00:00")
    (tmp_path / "p.csv").write_text("time;A_pload\n01.01.2016 00:00;x")
    with pytest.raises(DataError, match="cannot be read"):
        simbench.read_hourly(tmp_path / "p.csv")
