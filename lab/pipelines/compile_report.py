"""`lab compile --report`: every kernel timed against the machine's peaks, in `report.json` and as a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lab.artifacts.files import write_text
from lab.artifacts.golden import read_golden
from lab.artifacts.manifest import MAIN, Entry, Manifest, now
from lab.core.errors import ArtifactError
from lab.core.host import cpu_name
from lab.core.progress import say
from lab.core.signature import Signature
from lab.pipelines.compile_parts import WHERE, inputs_of_parts, operators, part_name, share_name
from lab.pipelines.compile_source import BATCH, Source
from lab.runtime import threads
from lab.runtime.program import ProgramRunner

if TYPE_CHECKING:
    from lab.compile.build import Compiled
    from lab.compile.profile.peaks import Peaks, Probes
    from lab.compile.profile.profile import BundleProfile, FunctionProfile, PartProfile
    from lab.compile.profile.timing import Overhead, Timed
    from lab.compile.targets import Target

HTML_NAME = "report.html"
Feed = Mapping[str, np.ndarray]
Key = tuple[str, int]


def profile_bundle(
    source: Source, target: Target, folder: Path, manifest: Manifest, compiled: Mapping[str, Compiled]
) -> BundleProfile:
    """Profile every function of a bundle at every batch size, on its golden sample's inputs."""
    from lab.compile.profile.profile import BundleProfile, function_profile
    from lab.compile.report import KernelReport

    feeds = dict(_feeds(source, folder, manifest))
    reason = why_not_measured(target)
    say(f"not timing the kernels: {reason}" if reason else "timing every kernel ...")
    timed, peaks = ({}, None) if reason else _measure(target, folder, manifest, compiled, feeds)
    report = KernelReport.of_program({name: made.report for name, made in compiled.items()})
    functions: list[FunctionProfile] = []
    parts: list[PartProfile] = []
    for entry in manifest.entries:
        if entry.parts:
            functions += _part_profiles(compiled[entry.function], entry, timed, peaks)
            parts += _part_shares(entry, timed, manifest)
            continue
        facts = compiled[entry.function].facts[entry.batch_size]
        rows = [r for r in report.rows if (r.function, r.batch_size) == (entry.function, entry.batch_size)]
        key = (entry.function, entry.batch_size)
        dims = manifest.called()[entry.function].check_inputs(feeds[key])
        open_dims = {name: size for name, size in dims.items() if name != BATCH}
        functions.append(function_profile(rows, facts, open_dims, timed.get(key), peaks))
    return BundleProfile(
        name=manifest.name,
        target=f"{target.name}: {target.describe()}",
        machine=cpu_name(),
        created=now(),
        functions=tuple(functions),
        peaks=peaks,
        not_measured=reason,
        stages_s=manifest.durations_s,
        notes=report.notes,
        parts=tuple(parts),
    )


def _part_profiles(
    made: Compiled, entry: Entry, timed: Mapping[Key, Timed], peaks: Peaks | None
) -> Iterator[FunctionProfile]:
    """Of the compiled parts, each like a function of its own."""
    from lab.compile.profile.profile import function_profile

    for index, part in enumerate(made.parts[entry.batch_size]):
        if part.built is None:
            continue
        rows = [row for row in made.report.rows if (row.batch_size, row.part) == (entry.batch_size, index)]
        name = part_name(index)
        profile = function_profile(rows, part.built.facts, {}, timed.get((name, entry.batch_size)), peaks)
        yield replace(profile, function=name, batch_size=entry.batch_size)


def _part_shares(entry: Entry, timed: Mapping[Key, Timed], manifest: Manifest) -> Iterator[PartProfile]:
    from lab.compile.profile.profile import PartProfile

    metrics = manifest.metrics.get(manifest.parity[-1].name, {}) if manifest.parity else {}
    measured = entry == manifest.entries[0]  # the shares are those of the first batch size
    for index, part in enumerate(entry.parts):
        share = metrics.get(share_name(index, part)) if measured else None
        yield PartProfile(entry.batch_size, index, WHERE[part.engine], operators(part), dict(part.reasons), share)


def write_page(profile: BundleProfile, folder: Path) -> None:
    """`report.html` beside `report.json`, complete in itself."""
    from lab.compile.profile.page import page

    write_text(folder / HTML_NAME, page(profile))


def why_not_measured(target: Target) -> str:
    """Empty where the kernels of a target can be timed one by one here."""
    runnable, reason = target.runnable_here()
    if runnable and target.kind == "cuda":
        return "a GPU's kernels run behind the host's back; make gpu-check times whole models"
    return "" if runnable else reason


def _measure(
    target: Target, folder: Path, manifest: Manifest, compiled: Mapping[str, Compiled], feeds: Mapping[Key, Feed]
) -> tuple[dict[Key, Timed], Peaks]:
    from lab.compile.profile.peaks import Probes
    from lab.compile.profile.timing import measure_overhead, time_kernels

    probes = Probes(target, threads.check_pool(threads.configure(None)))
    overhead = measure_overhead(target.to_tvm())
    timed: dict[Key, Timed] = {}
    for entry in manifest.entries:
        key = (entry.function, entry.batch_size)
        if entry.parts:
            timed |= _measure_parts(folder, entry, compiled[entry.function], feeds[key], overhead, probes)
            continue
        kernels = [row.kernel for row in compiled[entry.function].report.rows if row.batch_size == entry.batch_size]
        arrays = [feeds[key][spec.name] for spec in manifest.called()[entry.function].inputs]
        timed[key] = time_kernels(folder / entry.library, arrays, kernels, overhead, probes.sample)
    return timed, probes.peaks()


def _measure_parts(
    folder: Path, entry: Entry, made: Compiled, feed: Feed, overhead: Overhead, probes: Probes
) -> dict[Key, Timed]:
    from lab.compile.profile.timing import time_kernels

    timed: dict[Key, Timed] = {}
    for index, (part, arrays) in enumerate(zip(entry.parts, inputs_of_parts(folder, entry, feed), strict=True)):
        if part.engine == "tvm":
            rows = [row for row in made.report.rows if (row.batch_size, row.part) == (entry.batch_size, index)]
            kernels = [row.kernel for row in rows]
            key = (part_name(index), entry.batch_size)
            timed[key] = time_kernels(folder / part.file, arrays, kernels, overhead, probes.sample)
    return timed


def _feeds(source: Source, folder: Path, manifest: Manifest) -> Iterator[tuple[Key, Feed]]:
    """Inputs of every compiled function: the golden sample's, or those of a program's first call of it."""
    golden = read_golden(folder)
    if golden is None:
        raise ArtifactError("the bundle has no golden sample to time its kernels on", got=str(folder))
    calls = _first_calls(source, manifest, golden.inputs) if manifest.functions else {MAIN: golden.inputs}
    for entry in manifest.entries:
        signature = manifest.called()[entry.function]
        yield (entry.function, entry.batch_size), _rows(calls[entry.function], signature, entry)


def _first_calls(source: Source, manifest: Manifest, inputs: Feed) -> dict[str, Feed]:
    reference = source.reference(manifest)
    assert isinstance(reference, ProgramRunner)
    found: dict[str, Feed] = {}

    def observe(name: str, feed: Feed, outputs: Feed) -> None:
        found.setdefault(name, dict(feed))

    try:
        reference.run(inputs, observe)
    finally:
        reference.close()
    missing = sorted(set(manifest.functions) - set(found))
    if missing:
        raise ArtifactError(f"the program's loop never called '{missing[0]}', so there is nothing to time it on")
    return found


def _rows(feed: Feed, signature: Signature, entry: Entry) -> Feed:
    """As many samples as the function was compiled for, repeated or cut."""
    if not entry.batch_size:
        return feed
    axes = {spec.name: spec.shape.index(BATCH) for spec in signature.inputs if BATCH in spec.shape}
    return {
        name: np.take(array, np.arange(entry.batch_size) % array.shape[axes[name]], axis=axes[name])
        if name in axes
        else array
        for name, array in feed.items()
    }
