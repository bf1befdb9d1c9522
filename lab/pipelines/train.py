"""`lab train`: configuration -> trained, evaluated, tracked run folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.artifacts.files import read_json, sha256_json, write_text
from lab.artifacts.manifest import Manifest, now
from lab.artifacts.rundir import RunDir, find_run, new_run_dir
from lab.config.load import to_yaml
from lab.config.run import RunConfig
from lab.core.errors import ArtifactError, LabError
from lab.core.host import versions
from lab.core.progress import say
from lab.core.timing import Stages
from lab.pipelines.context import experiment_name, load_config
from lab.tasks import LEARN

if TYPE_CHECKING:
    from lab.core.interfaces import RunStatus, Tracker
    from lab.train.fit import FitResult


@dataclass(frozen=True)
class TrainReport:
    """What `lab train` tells at the end."""

    run: RunDir
    status: RunStatus
    metrics: dict[str, float]
    num_epochs: int
    images_per_s: float
    durations_s: dict[str, float]
    tracking: str
    leads: bool = True
    """False in the processes of a distributed job that only helped: they have nothing to say."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "run": str(self.run.path),
            "status": self.status,
            "metrics": self.metrics,
            "num_epochs": self.num_epochs,
            "images_per_s": self.images_per_s,
            "durations_s": self.durations_s,
            "tracking": self.tracking,
        }


def start(config: RunConfig) -> TrainReport:
    """Train a new run in a folder of its own. Raises LabError."""
    from lab.train.distributed import is_leader

    task = LEARN[config.task](config)
    if not is_leader():  # writes nothing; the leader alone makes the folder
        return _train(config, task, RunDir(config.runs_dir / config.task / config.name), resume=False)
    task.dataset_card()  # bad data fails here, before a folder exists
    run = new_run_dir(config.runs_dir, config.task, config.name)
    write_text(run.config, to_yaml(config))
    run.update_status(status="running", started=now(), task=config.task, config_sha256=_digest(config))
    return _train(config, task, run, resume=False)


def resume(spec: str, runs_dir: Path) -> TrainReport:
    """Go on with an interrupted run, with the configuration it was started with.

    Raises:
        ArtifactError: no such run, or its stored configuration was edited since.
    """
    run = find_run(spec, runs_dir)
    config = load_config(run.config)
    recorded = run.read_status().get("config_sha256")
    if recorded != _digest(config):
        raise ArtifactError(
            f"{run.config} was changed since the run was started",
            got=f"digest {_digest(config)[:12]}",
            expected=f"digest {str(recorded)[:12]}",
            hint="undo the change, or start a new run from the changed file: lab train " + str(run.config),
        )
    if run.read_status().get("status") == "finished":
        say(f"{run.path} is finished: nothing to do")
        return _finished(run)
    return _train(config, LEARN[config.task](config), run, resume=True)


def _finished(run: RunDir) -> TrainReport:
    """What a finished run's files tell."""
    from lab.train.resume import finished_path

    manifest, fitted = Manifest.load(run.path), read_json(finished_path(run))
    return TrainReport(
        run=run,
        status="finished",
        metrics=manifest.metrics["train"],
        num_epochs=fitted["num_epochs"],
        images_per_s=fitted["images_per_s"],
        durations_s=manifest.durations_s,
        tracking="make ui",
    )


def _digest(config: RunConfig) -> str:
    return sha256_json(config.model_dump(mode="json"))


def _train(config: RunConfig, task: Any, run: RunDir, *, resume: bool) -> TrainReport:
    from lab.train.distributed import is_leader

    leads = is_leader()
    tracker = _open_tracker(config, run, task) if leads else _silent()
    status: RunStatus = "failed"
    try:
        report = _fit_and_describe(config, task, run, tracker, resume=resume, leads=leads)
        status = report.status
    except KeyboardInterrupt:
        status = "killed"
        raise
    except LabError as error:
        tracker.set_tags({"lab.error": error.what})
        raise
    finally:
        if leads:
            run.update_status(status=status, ended=now())
        tracker.finish(status)
    return report


def _silent() -> Tracker:
    from lab.tracking.null import NullTracker

    return NullTracker()


def _open_tracker(config: RunConfig, run: RunDir, task: Any) -> Tracker:
    from lab.tracking import open_tracker

    tracker = open_tracker(
        config.tracking,
        experiment=experiment_name(config),
        run_name=run.name,
        tags={"lab.step": "train", "lab.task": config.task, "lab.run_dir": str(run.path)},
        run_id=run.read_status().get("mlflow_run_id") or None,
        folder=run.path,
    )
    run.update_status(mlflow_run_id=tracker.run_id)
    tracker.log_params(config.model_dump(mode="json", exclude={"tracking", "runs_dir"}))
    tracker.log_dataset(task.dataset_card())
    tracker.log_artifact(run.config)
    return tracker


def _fit_and_describe(
    config: RunConfig, task: Any, run: RunDir, tracker: Tracker, *, resume: bool, leads: bool
) -> TrainReport:
    from lab.train.fit import fit

    stages = Stages()
    with stages.stage("fit"):
        result = fit(task, config, run, tracker, resume=resume)
    if result.status != "finished" or not leads:
        report = _report(run, tracker, result, result.status, dict(result.metrics), stages)
        return replace(report, leads=leads)
    metrics = dict(result.metrics)
    with stages.stage("evaluate"):
        metrics |= _evaluate(config, task, run, tracker)
    with stages.stage("plots"):
        _plot(task, run, tracker)
    manifest = _write_manifest(config, task, run, metrics, result, stages)
    if config.tracking.register_model:
        tracker.register_model(name=f"{config.task}-{config.name}", folder=run.path, manifest=manifest)
    return _report(run, tracker, result, "finished", metrics, stages)


def _evaluate(config: RunConfig, task: Any, run: RunDir, tracker: Tracker) -> dict[str, float]:
    """The final weights on the test split (the validation split, where there is no test split)."""
    from lab.pipelines.evaluate import evaluate_model

    scores = evaluate_model(config, task, run.weights)
    # Also under the plain names that export, compile and bench use, so that one column compares them all.
    plain = {name.rpartition("/")[2]: value for name, value in scores.items()}
    tracker.log_metrics(scores | plain | {"size_mb": run.weights.stat().st_size / 1e6})
    return scores


def _plot(task: Any, run: RunDir, tracker: Tracker) -> None:
    from lab.nn.plots import plot_curves
    from lab.train.weights import load_weights

    model = task.build_model(pretrained=False)
    load_weights(model, run.weights)
    say("drawing plots ...")
    run.plots.mkdir(exist_ok=True)
    for picture in [plot_curves(run.metrics, run.plots), *task.plots(model.eval(), run.plots)]:
        tracker.log_artifact(picture, "plots")


def _write_manifest(
    config: RunConfig, task: Any, run: RunDir, metrics: dict[str, float], result: FitResult, stages: Stages
) -> Manifest:
    manifest = Manifest(
        kind="run",
        name=run.name,
        task=config.task,
        signature=task.signature,
        functions=task.functions,
        parents={"data": str(task.dataset_card().get("digest", ""))},
        preprocessing=task.preprocessing,
        labels=tuple(task.labels),
        metrics={"train": metrics},
        options={"monitor": task.monitor, "device": result.device},
        versions=versions(),
        durations_s=stages.durations_s,
        mlflow_run_id=str(run.read_status().get("mlflow_run_id", "")),
    ).with_files(run.path, ["model.safetensors", "config.yaml"])
    manifest.save(run.path)
    return manifest


def _report(
    run: RunDir, tracker: Tracker, result: FitResult, status: RunStatus, metrics: dict[str, float], stages: Stages
) -> TrainReport:
    return TrainReport(
        run=run,
        status=status,
        metrics=metrics,
        num_epochs=result.num_epochs,
        images_per_s=result.images_per_s,
        durations_s=stages.durations_s,
        tracking=tracker.link(),
    )
