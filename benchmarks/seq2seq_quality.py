"""Seq2seq beside JoeyNMT 2.3: same data, sizes, updates; quality, training tokens/s, and beam-5 decoding time.

    .venv/bin/python benchmarks/seq2seq_quality.py                     # everything: hours, see --help
    .venv/bin/python benchmarks/seq2seq_quality.py --parts speed       # windows of both, interleaved, minutes
    .venv/bin/python benchmarks/seq2seq_quality.py --parts decoding --data cmudict --bundle BUNDLE
        # the bundle: lab train, then lab compile RUN --target x86 --batch 1 --batch 64

JoeyNMT runs in an environment of its own, build/peers/joeynmt, which this script makes. It takes PyTorch and the other
heavy packages from our environment, so that both run on the same build of them, and it pins what JoeyNMT adds. Both
programs run in that one process: windows of steps take turns, and the ratio is the median over pairs of windows.

Model: LSTM or GRU, one bidirectional layer, one decoder layer with Bahdanau attention and input feeding, "last" state
through a bridge: what both have. Batches: the same samples in the same batches; JoeyNMT's own Batch, model, loss,
clipping and optimizer as its TrainManager._train_step calls them. Quality: both trained from the same seed for the same
number of updates, then beam 5 with alpha 1, and one scorer for both.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

REPO = Path(__file__).resolve().parents[1]
RESULTS = REPO / "benchmarks" / "results"
PEER = REPO / "build" / "peers" / "joeynmt"
PINS = ("joeynmt==2.3.0", "subword-nmt==0.3.8", "sacremoses==0.2.0", "tensorboard==2.21.0")
INSIDE = "SEQ2SEQ_QUALITY_INSIDE"
CONFIGS = {"cmudict": "cmudict", "libreoffice_en_de": "libreoffice_en_de"}
BEAM_SIZE, ALPHA = 5, 1.0


# ---- the environment -------------------------------------------------------------------------------------------------


def make_environment() -> Path:
    """JoeyNMT's interpreter. Its own requirement protobuf<3.21 is met by no current package and used by none of it."""
    python, done = PEER / "bin" / "python", PEER / ".installed"
    if done.exists() and done.read_text() == "\n".join(PINS):
        return python
    print(f"making {PEER} ...", flush=True)
    venv.create(PEER, with_pip=True, clear=True)
    ours, theirs = (
        subprocess.run(
            [p, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for p in (sys.executable, str(python))
    )
    (Path(theirs) / "shared.pth").write_text(f"{ours}\n{REPO}\n")
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", *PINS[:3]], check=True)
    subprocess.run([*pip, PINS[3]], check=True)
    done.write_text("\n".join(PINS))
    return python


# ---- both sides as (step, number of target tokens) -------------------------------------------------------------------


def our_config(name: str, args: argparse.Namespace, seed: int) -> Any:
    from lab.config.load import build, read_source
    from lab.tasks.seq2seq.config import Seq2SeqConfig

    same = [
        "model.encoder.num_layers=1", "model.decoder.num_layers=1",
        "model.encoder.directions=both", "model.decoder.attention=mlp", "model.decoder.state_init=last",
        "model.decoder.input_feeding=true", "loss.normalization=tokens", f"search.beam_size={BEAM_SIZE}",
        f"search.length_penalty={ALPHA}", f"seed={seed}", "train.device=cpu", "train.precision=float32",
        "tracking.enabled=false", "optimizer.weight_decay=0", "schedule.name=constant", "schedule.warmup_epochs=0",
    ]  # fmt: skip
    return build(read_source(REPO / f"configs/seq2seq/{CONFIGS[name]}.yaml", [*same, *args.overrides]), Seq2SeqConfig)


class Ours:
    """Our model, loss, clipping and optimizer, as the training loop runs them."""

    name = "lab"

    def __init__(self, task: Any) -> None:
        import torch

        from lab.train.optimizers import build_optimizer

        self.task, self.model = task, task.build_model().train()
        self.optimizer = build_optimizer(self.model, task.config.optimizer)
        self.parameters = list(self.model.parameters())
        self.clip = task.config.train.gradient_clip_norm
        self.clip_norm = torch.nn.utils.clip_grad_norm_

    def step(self, batch: dict[str, Any]) -> None:
        self.optimizer.zero_grad()
        loss = self.task.step(self.model, batch)["loss"]
        loss.backward()
        if self.clip:
            self.clip_norm(self.parameters, self.clip)
        self.optimizer.step()
        loss.item()

    def decode(self, inputs: dict[str, Any]) -> list[list[int]]:
        self.model.eval()
        tokens = self.task.decode(self.model, inputs, beam_size=BEAM_SIZE)["tokens"][:, 0]
        return [[int(number) for number in row if number > 3] for row in tokens]


class Joey:
    """JoeyNMT's model, loss, clipping and optimizer, as `TrainManager._train_step` and its training loop run them."""

    name = "JoeyNMT"

    def __init__(self, task: Any) -> None:
        import torch
        from joeynmt.builders import build_gradient_clipper, build_optimizer
        from joeynmt.model import build_model
        from joeynmt.vocabulary import Vocabulary

        torch.manual_seed(task.config.seed)
        special = SimpleNamespace(
            unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>", sep_token=None, lang_tags=[],
            unk_id=0, pad_id=1, bos_id=2, eos_id=3, sep_id=None,
        )  # fmt: skip
        vocabularies = [Vocabulary(list(side.vocabulary.tokens[4:]), special) for side in task.corpus.sides]
        self.model = build_model(joey_model(task.config), *vocabularies)
        self.model.loss_function = ("crossentropy", task.config.loss.label_smoothing)
        options = task.config.optimizer
        self.optimizer = build_optimizer(
            {"optimizer": options.name, "learning_rate": options.learning_rate}, self.model.parameters()
        )
        clip = task.config.train.gradient_clip_norm
        self.clip = build_gradient_clipper({"clip_grad_val": None, "clip_grad_norm": clip})
        self.longest = task.config.data.max_target_length

    def step(self, batch: dict[str, Any]) -> None:
        self.model.train()
        own = joey_batch(batch)
        own.sort_by_src_length()
        loss, _, _, num_correct = self.model(return_type="loss", **vars(own))
        normalized = own.normalize(loss, normalization="tokens", n_gpu=0, n_accumulation=1)
        num_correct = own.normalize(num_correct, "sum", 0)
        normalized.backward()
        normalized.item(), num_correct.item()
        if self.clip is not None:
            self.clip(parameters=self.model.parameters())
        self.optimizer.step()
        self.model.zero_grad()

    def decode(self, inputs: dict[str, Any]) -> list[list[int]]:
        import torch
        from joeynmt.search import search

        self.model.eval()
        source = torch.from_numpy(inputs["source"])
        batch = joey_batch(
            {"source": source, "source_lengths": torch.from_numpy(inputs["source_lengths"]), "target": None}
        )
        longest = int(2 * inputs["source_lengths"].max() + 10)
        backward = batch.sort_by_src_length()
        with torch.no_grad():
            found, _, _ = search(
                model=self.model, batch=batch, max_output_length=min(longest, self.longest), beam_size=BEAM_SIZE,
                beam_alpha=ALPHA, n_best=1, return_prob="none", return_attention=False,
            )  # fmt: skip
        return [[int(number) for number in _until_end(found[place])] for place in backward]


def _until_end(row: Any) -> Iterator[int]:
    for number in row:
        if number == 3:
            return
        if number > 3:
            yield number


def joey_model(config: Any) -> dict[str, Any]:
    """JoeyNMT's "model" section for the same architecture; its hidden_size is per direction."""
    encoder, decoder = config.model.encoder, config.model.decoder
    return {
        "initializer": "xavier_uniform", "embed_initializer": "xavier_uniform", "init_rnn_orthogonal": True,
        "encoder": {
            "type": "recurrent", "rnn_type": encoder.cell, "bidirectional": True,
            "hidden_size": encoder.hidden_size // 2,
            "num_layers": 1, "dropout": encoder.dropout,
            "embeddings": {"embedding_dim": encoder.embed_size, "dropout": encoder.embed_dropout},
        },
        "decoder": {
            "type": "recurrent", "rnn_type": decoder.cell, "hidden_size": decoder.hidden_size, "num_layers": 1,
            "dropout": decoder.dropout, "hidden_dropout": decoder.hidden_dropout, "input_feeding": True,
            "init_hidden": "bridge", "attention": "bahdanau",
            "embeddings": {"embedding_dim": decoder.embed_size, "dropout": decoder.embed_dropout},
        },
    }  # fmt: skip


def joey_numbers(table: Any) -> Any:
    """Our numbers in its vocabulary: <pad> and <unk> change places."""
    import torch

    return torch.where(table == 0, 1, torch.where(table == 1, 0, table))


def joey_batch(batch: dict[str, Any]) -> Any:
    import torch
    from joeynmt.batch import Batch
    from torch.nn import functional as F

    target = batch["target"]
    return Batch(
        src=joey_numbers(batch["source"]), src_length=batch["source_lengths"], src_prompt_mask=None,
        trg=None if target is None else F.pad(joey_numbers(target), (1, 0), value=2), trg_prompt_mask=None,
        indices=torch.arange(len(batch["source"])), device=torch.device("cpu"), pad_index=1, eos_index=3,
    )  # fmt: skip


# ---- measurements ----------------------------------------------------------------------------------------------------


def batches_of(task: Any) -> Iterator[dict[str, Any]]:
    """Training batches for ever, epoch after epoch."""
    loader, epoch = task.train_loader(), 0
    while True:
        loader.set_epoch(epoch)
        yield from loader
        epoch += 1


def cpu_seconds(run: Callable[[], Any]) -> tuple[float, float]:
    """(CPU seconds of this process, wall seconds) of one call."""
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    return time.process_time() - cpu, time.perf_counter() - wall


def measure_speed(task: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Training target tokens/s of both, in windows of steps over the same batches that take turns."""
    sides, batches = [Ours(task), Joey(task)], batches_of(task)
    for side in sides:
        side.step(next(batches))
    rows: dict[str, list[float]] = {side.name: [] for side in sides}
    walls: dict[str, list[float]] = {side.name: [] for side in sides}
    for number in range(args.windows):
        window = [next(batches) for _ in range(args.steps_per_window)]
        num_tokens = sum(int(batch["target_lengths"].sum()) for batch in window)
        for side in sides if number % 2 else reversed(sides):
            cpu_s, wall_s = cpu_seconds(lambda side=side, window=window: [side.step(batch) for batch in window])
            rows[side.name].append(num_tokens / cpu_s)
            walls[side.name].append(num_tokens / wall_s)

    def ratio(values: dict[str, list[float]]) -> float:
        return statistics.median(a / b for a, b in zip(values["lab"], values["JoeyNMT"], strict=True))

    return {
        "tokens_per_cpu_s": {name: statistics.median(values) for name, values in rows.items()},
        "tokens_per_s": {name: statistics.median(values) for name, values in walls.items()},
        "ratio": ratio(walls), "ratio_cpu": ratio(rows),
        "windows": args.windows, "steps_per_window": args.steps_per_window,
        "num_parameters": {side.name: sum(p.numel() for p in side.model.parameters()) for side in sides},
    }  # fmt: skip


def measure_quality(name: str, args: argparse.Namespace, keep: Callable[[dict[str, Any]], None]) -> None:
    """Both trained for the same updates on the same batches, decoded with the same beam, scored by one scorer.

    `keep` is given each finished run.
    """
    from lab.tasks.seq2seq.learn import Seq2SeqTask

    for seed in args.seeds:
        task = Seq2SeqTask(our_config(name, args, seed))
        for make in (Ours, Joey):
            side, batches = make(task), batches_of(task)
            cpu, wall = time.process_time(), time.perf_counter()
            for number in range(args.updates):
                side.step(next(batches))
                if (number + 1) % 500 == 0:
                    print(f"{side.name}: {number + 1} updates, {time.perf_counter() - wall:.0f} s", flush=True)
            taken = {"train_cpu_s": time.process_time() - cpu, "train_wall_s": time.perf_counter() - wall}
            row = {"side": side.name, "seed": seed, "updates": args.updates, **score(side, task, args), **taken}
            print(row, flush=True)
            keep(row)


def test_batches(task: Any, args: argparse.Namespace) -> Iterator[tuple[list[Any], dict[str, Any]]]:
    from lab.tasks.seq2seq import deploy

    dataset = task.eval_dataset(task.corpus.final)
    count = min(len(dataset), args.test_samples or len(dataset))
    for first in range(0, count, args.decode_batch):
        samples = [dataset[index] for index in range(first, min(first + args.decode_batch, count))]
        yield samples, deploy.preprocess([sample.input for sample in samples], task.preprocessing)


def score(side: Any, task: Any, args: argparse.Namespace) -> dict[str, Any]:
    from lab.tasks.seq2seq import deploy

    scorer = deploy.scorer(task.labels, task.preprocessing, **task.score_options())
    vocabulary = task.corpus.sides[1].vocabulary
    for samples, inputs in test_batches(task, args):
        for sample, numbers in zip(samples, side.decode(inputs), strict=True):
            scorer.add(vocabulary.decode(numbers), sample.label)
    return {"scores": scorer.compute()}


def measure_decoding(task: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Beam-5 decoding of test samples: JoeyNMT, our model in PyTorch, and our compiled bundle where one is given.

    JoeyNMT decodes the bundle's weights' task with its own random weights trained for `--warm-updates` steps, so that
    outputs end where they should; ours are those of the bundle, or trained alike.
    """
    sides: list[Any] = [Joey(task), Ours(task)]
    for side in sides:
        batches = batches_of(task)
        for _ in range(args.warm_updates):
            side.step(next(batches))
    runs: dict[str, Callable[[dict[str, Any]], Any]] = {side.name: side.decode for side in sides}
    if args.bundle is not None:
        runs["lab compiled"] = bundle_decoder(args.bundle, args.threads)
    times: dict[str, list[float]] = {name: [] for name in runs}
    num_tokens = dict.fromkeys(runs, 0)
    for _, inputs in test_batches(task, args):
        for name, run in runs.items():
            began = time.perf_counter()
            outputs = run(inputs)
            times[name].append(time.perf_counter() - began)
            num_tokens[name] += sum(map(len, outputs))
    ours = "lab compiled" if args.bundle is not None else "lab"
    return {
        "seconds_per_batch": {name: statistics.median(values) for name, values in times.items()},
        "tokens": num_tokens,
        "batch": args.decode_batch,
        "ratio": statistics.median(a / b for a, b in zip(times["JoeyNMT"], times[ours], strict=True)),
        "ratio_of": ours,
    }


def bundle_decoder(bundle: Path, num_threads: int) -> Callable[[dict[str, Any]], Any]:
    from lab.runtime.models import open_model
    from lab.tasks import loop_of

    runner = open_model(bundle, loop_of, num_threads=num_threads)
    return lambda inputs: [[n for n in row if n > 3] for row in runner.run(inputs)["tokens"][:, 0].tolist()]


# ---- command line ----------------------------------------------------------------------------------------------------


def table(result: dict[str, Any]) -> str:
    """What was measured, as Markdown."""
    lines = ["| data | measured | lab | JoeyNMT 2.3 | ratio | bar |", "|---|---|---|---|---|---|"]
    for name, part in sorted(result["data"].items()):
        if speed := part.get("speed"):
            values = [f"{speed['tokens_per_s'][who]:,.0f}" for who in ("lab", "JoeyNMT")]
            lines.append(
                f"| {name} | training target tokens/s, CPU | {values[0]} | {values[1]} | {speed['ratio']:.2f} | 1.2 |"
            )
        lines += quality_lines(name, part.get("quality", []))
        for _, decoding in sorted(part.get("decoding", {}).items()):
            seconds, ours = decoding["seconds_per_batch"], decoding["ratio_of"]
            what = f"beam-5 decoding of {decoding['batch']}, {decoding['threads']} thread(s), ms ({ours})"
            cells = [f"{1000 * seconds[who]:.2f}" for who in (ours, "JoeyNMT")]
            lines.append(f"| {name} | {what} | {' | '.join(cells)} | {decoding['ratio']:.2f} | 3 |")
    return "\n".join(lines) + "\n"


def quality_lines(name: str, rows: list[dict[str, Any]]) -> Iterator[str]:
    """Mean and standard deviation over the seeds that both sides have."""
    sides = {who: [row for row in rows if row["side"] == who] for who in ("lab", "JoeyNMT")}
    if not all(sides.values()):
        return
    for score_name in rows[0]["scores"]:
        columns = [[row["scores"][score_name] for row in own] for own in sides.values()]
        cells = [
            f"{statistics.mean(values):.4f} ± {statistics.stdev(values) if len(values) > 1 else 0.0:.4f}"
            for values in columns
        ]
        ratio = statistics.mean(columns[0]) / statistics.mean(columns[1])
        what = f"{score_name}, {rows[0]['updates']} updates, {len(columns[0])} seed(s)"
        yield f"| {name} | {what} | {' | '.join(cells)} | {ratio:.3f} | no worse |"


def run(args: argparse.Namespace) -> None:
    import torch

    from lab.artifacts.files import read_json, write_json, write_text
    from lab.artifacts.manifest import now
    from lab.core.host import cpu_name
    from lab.core.progress import set_quiet
    from lab.tasks.seq2seq.learn import Seq2SeqTask

    set_quiet(True)
    torch.set_num_threads(args.threads)
    result: dict[str, Any] = read_json(args.out) if args.out.exists() else {"data": {}}
    for name in args.data:
        config = our_config(name, args, args.seeds[0])
        part = result["data"].setdefault(name, {})
        part["config"] = config.model_dump(mode="json")

        def save() -> None:
            about = {"cpu": cpu_name(), "created": now(), "torch": torch.__version__, "pins": list(PINS)}
            write_json(args.out, about | {"data": result["data"]})
            write_text(args.out.with_suffix(".md"), table(result))

        def keep(row: dict[str, Any], part: dict[str, Any] = part) -> None:
            same = ("side", "seed")
            old = [other for other in part.get("quality", []) if any(other[key] != row[key] for key in same)]
            part["quality"] = [*(other for other in old if other["updates"] == row["updates"]), row]
            save()

        if "speed" in args.parts:
            part["speed"] = measure_speed(Seq2SeqTask(config), args) | {"threads": args.threads}
        if "quality" in args.parts:
            measure_quality(name, args, keep)
        if "decoding" in args.parts:
            measured = measure_decoding(Seq2SeqTask(config), args) | {"threads": args.threads}
            part.setdefault("decoding", {})[f"batch {args.decode_batch}, threads {args.threads}"] = measured
        save()
    print(table(result))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=list(CONFIGS), default=list(CONFIGS))
    parser.add_argument(
        "--parts", nargs="+", choices=["speed", "quality", "decoding"], default=["speed", "quality", "decoding"]
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="quality; the rest takes the first")
    parser.add_argument("--windows", type=int, default=10, help="speed: pairs of windows")
    parser.add_argument("--steps-per-window", type=int, default=10)
    parser.add_argument("--updates", type=int, default=3000, help="quality: optimizer steps of each")
    parser.add_argument("--test-samples", type=int, default=2000, help="0: all")
    parser.add_argument("--decode-batch", type=int, default=64)
    parser.add_argument("--warm-updates", type=int, default=300, help="decoding: steps before, so that outputs end")
    parser.add_argument("--bundle", type=Path, help="decoding: our compiled model of the same configuration")
    parser.add_argument("--out", type=Path, default=RESULTS / "seq2seq_quality.json")
    parser.add_argument("overrides", nargs="*", help="key=value of the configuration, for both")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if os.environ.get(INSIDE):
        run(args)
        return
    python = make_environment()
    environment = {**os.environ, INSIDE: "1", "PYTHONPATH": str(REPO), "PYTHONWARNINGS": "ignore"}
    sys.exit(subprocess.run([str(python), __file__, *sys.argv[1:]], env=environment, check=False).returncode)


if __name__ == "__main__":
    main()
