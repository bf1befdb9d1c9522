"""One on-disk format per file. Each `read(path, options)` returns a data set; `options` is a `ReadOptions`.

Adding a format: its file, one line here, its tests.
"""

from lab.core.tables import LazyTable

FORMATS = LazyTable(
    "data format",
    {
        "idx": "lab.data.formats.idx:read",
        "image_folder": "lab.data.formats.image_folder:read",
        "lst": "lab.data.formats.lst:read",
    },
)
