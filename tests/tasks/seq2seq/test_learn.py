"""The learning half: data of every form, what is cut off, validation by search, pictures, and that it learns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from lab.core.errors import ConfigError, DataError
from lab.data.text import parallel, recordio, tsv
from lab.data.text.vocabulary import Vocabulary
from lab.tasks.seq2seq import deploy
from lab.tasks.seq2seq.config import Seq2SeqConfig
from lab.tasks.seq2seq.learn import Seq2SeqTask
from lab.train.optimizers import build_optimizer
from tests.tasks.seq2seq.tiny import tiny_config, write_tiny_tsv

MakeTask = Callable[..., Seq2SeqTask]


def test_describes_itself(make_task: MakeTask) -> None:
    task = make_task()
    assert set(task.labels) == {"<pad>", "<unk>", "<s>", "</s>", "ONE", "TWO", "THREE", "FOUR"}
    assert (task.monitor, task.monitor_mode) == ("sequence_accuracy", "max")
    assert make_task(metrics={"monitor": "perplexity"}).monitor_mode == "min"
    assert [len(task.eval_dataset(split)) for split in ("train", "validation")] == [90, 30]  # type: ignore[arg-type]
    assert not task.has_split("test")
    card = task.dataset_card()
    assert card["vocabulary"] == {"source": 8, "target": 8}
    assert card["num_training_pairs"] > 90  # some sources have two targets
    assert 0 < card["padding_share"] < 0.5
    with pytest.raises(ConfigError, match="no published weights"):
        task.published("x")
    with pytest.raises(DataError, match="no test data"):
        task.eval_dataset("test")


def test_no_answer_of_a_held_out_source_is_trained_on(make_task: MakeTask, tmp_path: Path) -> None:
    data = {"format": "tsv", "train": str(tmp_path / "pairs.tsv"), "validation_size": 20, "test_size": 0.2}
    task = make_task(data=data)
    parts = [task.eval_dataset(split) for split in ("train", "validation", "test")]  # type: ignore[arg-type]
    inputs = [{part[index].input for index in range(len(part))} for part in parts]
    assert [len(part) for part in inputs] == [76, 20, 24]
    assert len(set.union(*inputs)) == 120


def test_parallel_and_recordio_give_the_samples_of_tsv(make_task: MakeTask, tmp_path: Path) -> None:
    pairs = tsv.read(write_tiny_tsv(tmp_path))
    spaced = [" ".join(pairs[index].input) for index in range(len(pairs))]
    (tmp_path / "spaced.tsv").write_text(
        "".join(f"{text}\t{pairs[index].label[0]}\n" for index, text in enumerate(spaced))
    )
    single = tsv.read(tmp_path / "spaced.tsv")
    parallel.write(tmp_path / "s.txt", tmp_path / "t.txt", single)
    words = [
        Vocabulary.build(text.split() for text in side)
        for side in (spaced, [p.label[0] for p in map(single.__getitem__, range(120))])
    ]
    recordio.write(tmp_path / "train.rec", single, *words)
    forms = [
        {"format": "tsv", "train": str(tmp_path / "spaced.tsv")},
        {"format": "parallel", "train": {"path": str(tmp_path / "s.txt"), "target": str(tmp_path / "t.txt")}},
        {"format": "recordio", "train": str(tmp_path / "train.rec")},
    ]
    batches = []
    for form in forms:
        task = make_task(data=form | {"validation_size": 0.25}, source={"kind": "word"})
        batches.append(next(iter(task.train_loader())))
    sizes = [batch["source"].shape for batch in batches]
    assert sizes[0] == sizes[1] == sizes[2]
    assert torch.equal(batches[0]["source"], batches[1]["source"])
    assert torch.equal(batches[1]["target_lengths"], batches[2]["target_lengths"])


def test_what_is_too_long_is_cut_off_and_counted(make_task: MakeTask, tmp_path: Path, capsys: Any) -> None:
    data = {"format": "tsv", "train": str(tmp_path / "pairs.tsv"), "max_source_length": 3, "max_target_length": 2}
    task = make_task(data=data)
    batch = next(iter(task.train_loader()))
    assert batch["source_lengths"].max() <= 4
    assert batch["target_lengths"].max() <= 3
    assert (batch["target"].gather(1, batch["target_lengths"][:, None] - 1) == 3).all()
    counts = task.dataset_card()["num_cut"]
    assert counts["target"] > counts["source"] > 0
    said = capsys.readouterr().err
    assert f"cut off {counts['source']} of {len(task.corpus.training)} training sources after 3 tokens" in said
    assert "of their places are padding" in said


def test_validation_decodes_the_samples_asked_for(make_task: MakeTask) -> None:
    task = make_task(metrics={"sample_size": 7, "beam_size": 1})
    model, metrics = task.build_model().eval(), task.metrics()
    counts = []
    with torch.inference_mode():
        for batch in task.eval_loader("validation"):
            outputs = task.step(model, batch)
            counts.append(len(outputs.get("index", [])))
            task.update_metrics(metrics, outputs, batch)
    assert sum(counts) == 7
    assert set(metrics.compute()) == {"perplexity", "token_accuracy", "sequence_accuracy", "per", "wer", "bleu", "chrf"}
    none = make_task(metrics={"sample_size": 0, "monitor": "perplexity"})
    assert list(none.metrics()) == ["forced"]


def test_perplexity_is_that_of_all_tokens(make_task: MakeTask) -> None:
    task = make_task()
    model, metrics = task.build_model().eval(), task.metrics()
    logs = []
    with torch.inference_mode():
        for batch in task.eval_loader("validation"):
            task.update_metrics(metrics, task.step(model, batch), batch)
            history = torch.nn.functional.pad(batch["target"][:, :-1], (1, 0), value=2)
            states = model(batch["source"], batch["source_lengths"], history)
            log_probs = model.output(states).log_softmax(dim=-1)  # type: ignore[operator, union-attr]
            logs.append(log_probs.gather(2, batch["target"].unsqueeze(2)).squeeze(2)[batch["target"] != 0])
    expected = float(torch.cat(logs).mean().neg().exp())
    assert float(metrics.compute()["perplexity"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("normalization", ["tokens", "sentences"])
def test_the_loss_is_smoothed_and_divided_as_asked(make_task: MakeTask, normalization: str) -> None:
    task = make_task(loss={"label_smoothing": 0.2, "normalization": normalization})
    model, batch = task.build_model().train(), next(iter(task.train_loader()))
    history = torch.nn.functional.pad(batch["target"][:, :-1], (1, 0), value=2)
    states = model(batch["source"], batch["source_lengths"], history)
    logs = model.output(states).log_softmax(dim=-1)  # type: ignore[operator, union-attr]
    counts = batch["target"] != 0
    of_target = logs.gather(2, batch["target"].unsqueeze(2)).squeeze(2)
    summed = -(0.8 * of_target + 0.2 * logs.mean(dim=-1))[counts].sum()
    expected = summed / (counts.sum() if normalization == "tokens" else len(counts))
    assert task.step(model, batch)["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_it_learns_the_language_and_draws_its_pictures(make_task: MakeTask, tmp_path: Path) -> None:
    task = make_task()
    model = task.build_model().train()
    optimizer, loader = build_optimizer(model, task.config.optimizer), task.train_loader()
    for epoch in range(25):
        loader.set_epoch(epoch)
        for batch in loader:
            optimizer.zero_grad()
            task.step(model, batch)["loss"].backward()
            optimizer.step()
    model.eval()
    dataset = task.eval_dataset("validation")
    texts = [dataset[index].input for index in range(len(dataset))]
    outputs = task.decode(model, deploy.preprocess(texts, task.preprocessing))
    assert task.signature.check_outputs(outputs)["batch"] == 30
    scorer = deploy.scorer(task.labels, task.preprocessing, **task.score_options())
    scorer.update(outputs, [dataset[index] for index in range(30)])
    scores = scorer.compute()
    assert scores["per"] < 0.1
    assert scores["chrf"] > 80
    found = task.plots(model, tmp_path / "plots")
    assert [path.name for path in found] == ["attention.png", "errors_by_length.png"]
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in found)
    assert not model.training


def test_the_exported_functions_decode_alike_at_a_length_never_seen(make_task: MakeTask, tmp_path: Path) -> None:
    from lab.export.onnx_export import export_onnx
    from lab.runtime.onnx_runner import OnnxRunner

    task = make_task(search={"beam_size": 3})
    model, calls = task.build_model().eval(), {}
    for name, module in task.export_modules(model).items():
        path = export_onnx(module, task.functions[name], tmp_path / f"{name}.onnx", opset=18)
        calls[name] = OnnxRunner(path, num_threads=1, signature=task.functions[name]).run
    inputs = deploy.preprocess(["abcdabcdabc", "a", "dcb"], task.preprocessing)
    ours, theirs = task.decode(model, inputs, n_best=2), deploy.generate(calls, inputs, task.preprocessing, n_best=2)
    assert np.array_equal(ours["tokens"], theirs["tokens"])
    np.testing.assert_allclose(ours["attention"], theirs["attention"], atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"data": {"format": "tsv"}}, "no data"),
        ({"data": {"format": "parallel", "train": "x"}}, "path and target"),
        ({"data": {"format": "recordio", "train": "x"}}, "kind must be word"),
        ({"metrics": {"monitor": "bleu", "scores": ["per"]}}, "metrics.scores"),
        ({"metrics": {"monitor": "per", "sample_size": 0}}, "sample_size"),
        (
            {"model": {"tie_embeddings": "all", "encoder": {}, "decoder": {"embed_size": 1024}}},
            "equal to decoder.embed_size",
        ),
        ({"model": {"encoder": {"hidden_size": 15}}}, "even"),
        ({"shared_vocabulary": True}, "equal sections"),
    ],
)
def test_sections_that_do_not_fit_are_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Seq2SeqConfig.model_validate(tiny_config(Path("pairs.tsv"), **changes))


def test_a_file_without_a_pair_is_named(make_task: MakeTask, tmp_path: Path) -> None:
    (tmp_path / "empty.tsv").write_text("\n\n")
    with pytest.raises(DataError, match=r"empty\.tsv holds no pair"):
        make_task(data={"format": "tsv", "train": str(tmp_path / "empty.tsv")}).train_loader()
