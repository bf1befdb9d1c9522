"""Data sets in memory: digest, split, counts; the order of an epoch; the scan for broken samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.core.errors import ConfigError, DataError
from lab.core.tables import LazyTable
from lab.data.check import check
from lab.data.dataset import ArrayDataset, class_counts, split
from lab.data.formats import FORMATS, WRITERS
from lab.data.formats.image_folder import read
from lab.data.sampling import epoch_order


@pytest.fixture
def dataset(random_images: np.ndarray) -> ArrayDataset:
    return ArrayDataset(random_images, np.arange(11, dtype=np.int64) % 3, ("a", "b", "c"), "memory")


def test_digest_depends_on_images_targets_and_names(dataset: ArrayDataset, random_images: np.ndarray) -> None:
    same = ArrayDataset(random_images.copy(), dataset.targets().copy(), dataset.labels, "elsewhere")
    assert same.digest == dataset.digest
    assert len(dataset.digest) == 64
    changed = random_images.copy()
    changed[3, 2, 1, 0] ^= 1
    others = [
        ArrayDataset(changed, dataset.targets(), dataset.labels, "memory"),
        ArrayDataset(random_images, dataset.targets()[::-1].copy(), dataset.labels, "memory"),
        ArrayDataset(random_images, dataset.targets(), ("a", "b", "d"), "memory"),
    ]
    assert len({dataset.digest, *(other.digest for other in others)}) == 4


def test_split_is_a_partition_that_depends_on_the_seed_alone(dataset: ArrayDataset) -> None:
    rest, held = split(dataset, 0.3, seed=5)
    assert (len(rest), len(held)) == (8, 3)
    assert sorted([*rest.indices, *held.indices]) == list(range(11))
    again = split(dataset, 0.3, seed=5)
    np.testing.assert_array_equal(again[1].indices, held.indices)
    assert not np.array_equal(split(dataset, 0.3, seed=6)[1].indices, held.indices)
    arrays = held.arrays()
    assert arrays is not None
    np.testing.assert_array_equal(arrays[1], held[1].image)
    assert held.targets()[1] == held[1].label
    assert held.digest != rest.digest != dataset.digest


def test_split_needs_samples_on_both_sides(dataset: ArrayDataset) -> None:
    with pytest.raises(DataError, match="cannot be split"):
        split(dataset, 0.01, seed=0)


def test_class_counts(dataset: ArrayDataset, random_images: np.ndarray) -> None:
    assert class_counts(dataset) == {"a": 4, "b": 4, "c": 3}
    multi = ArrayDataset(random_images[:2], np.array([[1, 1], [0, 1]], np.float32), ("a", "b"), "memory")
    assert class_counts(multi) == {"a": 1, "b": 2}


@settings(max_examples=60, deadline=None)
@given(num=st.integers(1, 97), num_ranks=st.integers(1, 7), epoch=st.integers(0, 5), shuffle=st.booleans())
def test_ranks_share_an_epoch_without_overlap(num: int, num_ranks: int, epoch: int, shuffle: bool) -> None:
    shards = [epoch_order(num, 3, epoch, rank, num_ranks, shuffle) for rank in range(num_ranks)]
    seen = np.concatenate(shards)
    assert len(set(seen.tolist())) == len(seen)
    assert len(seen) == (num - num % num_ranks if shuffle else num)
    assert not shuffle or len({len(shard) for shard in shards}) == 1


def test_order_is_a_function_of_seed_and_epoch() -> None:
    first = epoch_order(101, 7, 2)
    np.random.default_rng().random(5)
    np.testing.assert_array_equal(epoch_order(101, 7, 2), first)
    assert not np.array_equal(epoch_order(101, 7, 3), first)
    assert not np.array_equal(epoch_order(101, 8, 2), first)
    assert epoch_order(5, 0, 9, shuffle=False).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ConfigError, match="no such rank"):
        epoch_order(5, 0, 0, rank=2, num_ranks=2)


def test_check_lists_broken_files_with_reasons(image_root: Path) -> None:
    broken = image_root / "bee" / "1.png"
    broken.write_bytes(broken.read_bytes()[:30])
    report = check(read(image_root))
    assert not report.ok
    assert [name for name, _ in report.broken] == [str(broken)]
    assert "cannot be decoded" in report.broken[0][1]
    assert report.class_counts == {"ant": 2, "bee": 2, "cat": 2}
    assert (report.heights, report.widths, report.channels) == ((5, 5), (7, 7), {3: 5})
    assert report.to_dict()["broken"][0]["name"] == str(broken)


def test_check_of_a_sound_set(dataset: ArrayDataset) -> None:
    report = check(dataset)
    assert (report.ok, report.num_samples) == (True, 11)


def test_formats_table_is_the_folder(repo: Path) -> None:
    assert isinstance(FORMATS, LazyTable)
    files = {path.stem for path in (repo / "lab" / "data" / "formats").glob("*.py")} - {"__init__"}
    modules = {name: entry.partition(":")[0].rpartition(".")[2] for name, entry in FORMATS.entries.items()}
    assert set(modules.values()) == files
    assert all(callable(FORMATS[name]) for name in FORMATS)
    assert set(FORMATS) - set(WRITERS) == {"idx"}
    for name, entry in WRITERS.entries.items():
        assert entry.partition(":")[0].rpartition(".")[2] == modules[name]
        assert callable(WRITERS[name])
