"""One on-disk format per file: `read(path, options)` returns a data set, `write(path, dataset)` writes one.

`options` is a `ReadOptions`. Adding a format: its file, a line in one table or both, its tests.
"""

from lab.core.tables import LazyTable

FORMATS = LazyTable(
    "data format",
    {
        "idx": "lab.data.formats.idx:read",
        "image_folder": "lab.data.formats.image_folder:read",
        "lst": "lab.data.formats.lst:read",
        "coco": "lab.data.formats.coco:read",
        "voc": "lab.data.formats.voc:read",
        "sagemaker_json": "lab.data.formats.sagemaker_json:read",
        "mask_folder": "lab.data.formats.mask_folder:read",
        "rec": "lab.data.formats.recordio:read",
        "tar": "lab.data.formats.tar:read",
        "manifest": "lab.data.formats.manifest:read",
    },
)

WRITERS = LazyTable(
    "data format to write",
    {
        "image_folder": "lab.data.formats.image_folder:write",
        "lst": "lab.data.formats.lst:write_dataset",
        "coco": "lab.data.formats.coco:write",
        "voc": "lab.data.formats.voc:write",
        "sagemaker_json": "lab.data.formats.sagemaker_json:write",
        "mask_folder": "lab.data.formats.mask_folder:write",
        "rec": "lab.data.formats.recordio:write",
        "tar": "lab.data.formats.tar:write",
        "manifest": "lab.data.formats.manifest:write",
    },
)
