"""The tasks, each a folder: `config` (pydantic), `deploy` (numpy only), `learn` (torch), `models/`.

Adding a task: its folder, one line in each table here, one file of contract tests.
"""

from lab.core.tables import LazyTable

CONFIGS = LazyTable(
    "task",
    {
        "classification": "lab.tasks.classification.config:ClassificationConfig",
        "detection": "lab.tasks.detection.config:DetectionConfig",
        "segmentation": "lab.tasks.segmentation.config:SegmentationConfig",
    },
)
DEPLOY = LazyTable(
    "task",
    {
        "classification": "lab.tasks.classification.deploy",
        "detection": "lab.tasks.detection.deploy",
        "segmentation": "lab.tasks.segmentation.deploy",
    },
)
LEARN = LazyTable(
    "task",
    {
        "classification": "lab.tasks.classification.learn:ClassificationTask",
        "detection": "lab.tasks.detection.learn:DetectionTask",
        "segmentation": "lab.tasks.segmentation.learn:SegmentationTask",
    },
)
