"""IDX, the format of MNIST: a big-endian header (0, 0, dtype, rank, dimensions), then the values. Plain or gzip.

Format: http://yann.lecun.com/exdb/mnist/ ("THE IDX FILE FORMAT").
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from lab.artifacts.files import atomic_path
from lab.core.errors import DataError
from lab.data.dataset import ArrayDataset, ReadOptions, class_names

DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP_MAGIC = b"\x1f\x8b"


def read(path: Path, options: ReadOptions | None = None) -> ArrayDataset:
    """Read an image file of rank 3 (N, H, W) or 4 (N, H, W, C or N, C, H, W) and its label file.

    Labels are in `options.companion`; without it, in the file whose name has "labels" and "idx1" where the image file
    has "images" and "idx3". They are class indices of rank 1, or multi-hot rows of rank 2.

    Raises:
        DataError: a file is missing, truncated or not IDX; counts differ; a class index is out of range.
    """
    options = options or ReadOptions()
    label_path = options.companion or find_labels(path)
    images_NHWC = _images(read_idx(path), path)
    targets, found_classes = _targets(read_idx(label_path), label_path, options)
    if len(images_NHWC) != len(targets):
        raise DataError(
            "images and labels differ in number",
            got=f"{len(images_NHWC)} images in {path}, {len(targets)} labels in {label_path}",
            expected="one label per image",
        )
    if not len(targets):
        raise DataError(f"{path} holds no images")
    return ArrayDataset(images_NHWC, targets, class_names(options, found_classes), str(path))


def find_labels(path: Path) -> Path:
    """The label file that belongs to an image file by its name. Raises DataError when there is none."""
    stem = path.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1").replace("idx4", "idx1")
    candidates = [path.with_name(stem), path.with_name(f"{stem}.gz")]
    for candidate in candidates:
        if candidate.is_file() and candidate != path:
            return candidate
    raise DataError(
        f"no label file beside {path}",
        expected=" or ".join(sorted({str(c) for c in candidates if c != path})) or "a file named ...labels...",
        hint="name it with `labels:` beside `path:`",
    )


def read_idx(path: Path) -> np.ndarray:
    """The array in an IDX file, in native byte order.

    Raises:
        DataError: missing, not IDX, unknown dtype, or more or fewer bytes than the header says.
    """
    content = _content(path)
    if len(content) < 4 or content[:2] != b"\0\0":
        raise DataError(
            f"{path} is not an IDX file",
            got=f"it starts with {content[:4].hex() or 'nothing'}",
            expected="0000, dtype, rank",
        )
    code, rank = content[2], content[3]
    if code not in DTYPES:
        known = ", ".join(f"0x{known:02x}" for known in DTYPES)
        raise DataError(f"{path} has an unknown IDX dtype", got=f"0x{code:02x}", expected=known)
    start = 4 + 4 * rank
    if not rank or len(content) < start:
        raise DataError(
            f"{path} is truncated in its header",
            got=f"{len(content)} bytes, rank {rank}",
            expected=f"rank >= 1, {start} bytes",
        )
    shape = struct.unpack(f">{rank}I", content[4:start])
    dtype = np.dtype(DTYPES[code])
    expected = start + int(np.prod(shape, dtype=object)) * dtype.itemsize
    if len(content) != expected:
        what = "is truncated" if len(content) < expected else "is longer than its header says"
        raise DataError(
            f"{path} {what}",
            got=f"{len(content)} bytes",
            expected=f"{expected} bytes for {dtype.name}{list(shape)}",
            hint="fetch or copy the file again",
        )
    return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write an array as IDX, gzip-compressed when the name ends in ".gz"; the bytes depend only on the array.

    Raises:
        DataError: IDX has no such dtype or rank.
        StorageError: the disk is full or the folder is not writable.
    """
    codes = {np.dtype(dtype).newbyteorder("="): code for code, dtype in DTYPES.items()}
    code = codes.get(array.dtype.newbyteorder("="))
    if code is None or not 1 <= array.ndim <= 255:
        expected = ", ".join(str(dtype) for dtype in codes)
        raise DataError(
            "IDX cannot hold this array", got=f"{array.dtype}, rank {array.ndim}", expected=f"{expected}; rank 1..255"
        )
    header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    content = header + array.astype(DTYPES[code]).tobytes()
    with atomic_path(path) as temporary:
        temporary.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content[:2] == _GZIP_MAGIC else content
    except FileNotFoundError as error:
        raise DataError(
            f"there is no IDX file at {path}", hint="`lab data fetch NAME` gets the known data sets"
        ) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path} is truncated or damaged", got=error, expected="a complete gzip file", hint="fetch it again"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read", got=error.strerror or error) from error


def _images(raw: np.ndarray, path: Path) -> np.ndarray:
    if raw.ndim == 3:
        images = raw[..., None]
    elif raw.ndim == 4 and raw.shape[3] in (1, 3):
        images = raw
    elif raw.ndim == 4 and raw.shape[1] in (1, 3):
        images = raw.transpose(0, 2, 3, 1)
    else:
        raise DataError(
            f"{path} does not hold images",
            got=f"shape {list(raw.shape)}",
            expected="[N, H, W], [N, H, W, C] or [N, C, H, W] with C 1 or 3",
        )
    return np.ascontiguousarray(_as_uint8(images, path))


def _as_uint8(images: np.ndarray, path: Path) -> np.ndarray:
    """Pixels as 0..255: integers and whole floats in that range as they are, floats in 0..1 times 255."""
    if images.dtype == np.uint8 or not images.size:
        return images.astype(np.uint8)
    low, high = float(images.min()), float(images.max())
    is_float = np.issubdtype(images.dtype, np.floating)
    if is_float and low >= 0 and high <= 1:
        scaled: np.ndarray = np.rint(images * 255).astype(np.uint8)
        return scaled
    if low >= 0 and high <= 255 and (not is_float or bool((images == np.rint(images)).all())):
        return images.astype(np.uint8)
    raise DataError(
        f"{path} has values that are not pixels",
        got=f"{images.dtype} in {low:g}..{high:g}",
        expected="0..255, or floats in 0..1",
    )


def _targets(raw: np.ndarray, path: Path, options: ReadOptions) -> tuple[np.ndarray, int]:
    """(targets, number of classes found)."""
    values = raw[:, 0] if raw.ndim == 2 and raw.shape[1] == 1 else raw
    limit = options.expected_classes
    if values.ndim == 2:
        if limit not in (None, values.shape[1]) or not np.isin(values, (0, 1)).all():
            raise DataError(
                f"{path} does not hold multi-hot labels",
                got=f"shape {list(raw.shape)}",
                expected=f"zeros and ones, {limit or 'any'} columns",
            )
        return values.astype(np.float32), values.shape[1]
    if values.ndim != 1 or not bool((values == np.rint(values)).all()):
        raise DataError(
            f"{path} does not hold labels", got=f"{raw.dtype}{list(raw.shape)}", expected="one whole number per image"
        )
    highest = int(values.max()) if len(values) else -1
    bad = np.flatnonzero((values < 0) | (values >= (limit if limit is not None else highest + 1)))
    if len(bad):
        raise DataError(
            f"{path} has a class index out of range",
            got=f"class {int(values[bad[0]])} at record {int(bad[0])} ({len(bad)} such records)",
            expected=f"0..{limit - 1}" if limit is not None else "0 or more",
            hint="class indices start at 0; data.num_classes must be the number of classes",
        )
    return values.astype(np.int64), highest + 1
