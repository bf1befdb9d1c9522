"""The catalog's data sets of time series, fetched when they are not there."""

from __future__ import annotations

from pathlib import Path

from lab.core.errors import ConfigError
from lab.core.tables import nearest
from lab.data.resolve import resolve
from lab.data.series import competitions, simbench
from lab.data.series.catalog import KNOWN, Known
from lab.data.series.series import Series


def known(name: str) -> Known:
    """What is fixed for a data set. Raises ConfigError naming those there are."""
    if name in KNOWN:
        return KNOWN[name]
    close = nearest(name, KNOWN)
    raise ConfigError(
        f"'{name}' is no data set of time series",
        expected=", ".join(KNOWN),
        hint=f"did you mean '{close}'?" if close else None,
    )


def open_known(name: str, root: Path | None = None) -> list[Series]:
    """All series whole: what is to be forecast is their end. Raises as `resolve`, and ConfigError."""
    period = known(name).period
    folder = resolve(name, root)
    if period is None:
        return simbench.read_hourly(folder / "LoadProfile.csv")
    return competitions.read(folder / ("tcomp_data.json" if name.startswith("tourism") else "m3_data.json"), period)
