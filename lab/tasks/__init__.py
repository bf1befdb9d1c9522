"""The tasks, each a folder: `config` (pydantic), `deploy` (numpy only), `learn` (torch), `models/`.

Adding a task: its folder, one line in each table here, one file of contract tests.
"""

from lab.core.tables import LazyTable

CONFIGS = LazyTable("task", {"classification": "lab.tasks.classification.config:ClassificationConfig"})
DEPLOY = LazyTable("task", {"classification": "lab.tasks.classification.deploy"})
LEARN = LazyTable("task", {"classification": "lab.tasks.classification.learn:ClassificationTask"})
