"""A model of this process as the callee of a batch transform: the endpoint's own handlers, without HTTP."""

from __future__ import annotations

import math
import time
from pathlib import Path
from queue import SimpleQueue
from typing import Any, cast

from lab.core.errors import DataError
from lab.serve.config import LimitsConfig, VariantConfig
from lab.serve.engine.batch import run_jobs
from lab.serve.engine.model import ServedModel
from lab.serve.engine.work import Answer, Job
from lab.serve.protocols.errors import failure_of, to_serve_error
from lab.serve.protocols.invocations import InvocationWork
from lab.serve.transform.config import TransformConfig
from lab.serve.transform.run import Reply


class LocalModel:
    """One opened model per thread that calls at the same time.

    A failure here would come again, so every one is the request's (a DataError) and none is tried twice.

    Raises:
        ArtifactError, IntegrityError, IncompatibleError, MissingToolError: as `lab.runtime.models.open_model`.
    """

    def __init__(self, folder: Path, config: TransformConfig, runtime_threads: int = 1) -> None:
        self._config = config
        self._max_pixels = LimitsConfig().image_pixels
        variant = VariantConfig(name="transform", model=str(folder), runtime_threads=runtime_threads)
        self._models = [ServedModel(folder, variant) for _ in range(config.max_concurrent_transforms)]
        self._free: SimpleQueue[ServedModel] = SimpleQueue()
        for model in self._models:
            self._free.put(model)

    def __call__(self, body: bytes) -> Reply:
        """Raises DataError when the request cannot be answered."""
        work = InvocationWork(body, self._config.content_type, self._config.accept, self._max_pixels)
        # Nobody awaits this job: `run_jobs` only sets its result.
        job = Job(work, cast(Any, None), time.perf_counter(), math.inf)
        model = self._free.get()
        try:
            run_jobs(model, [job], lambda num_inputs: None)
        finally:
            self._free.put(model)
        if isinstance(job.result, Answer):
            return Reply(job.result.body, job.result.content_type)
        raise self._told(job.result)

    @staticmethod
    def _told(error: BaseException | None) -> DataError:
        assert error is not None
        shown, is_ours = to_serve_error(error)
        message = f"the model raised {type(error).__name__}: {error}" if is_ours else failure_of(shown).message
        return DataError(f"a request was refused: {message}")

    def close(self) -> None:
        for model in self._models:
            model.close()
