"""Time series: what one is, its calendar, and the files it is read from (one file per on-disk format)."""
