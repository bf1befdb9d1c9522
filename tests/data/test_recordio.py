"""RecordIO: bytes equal to MXNet's own tools, round trips, and damage that is named by file and offset."""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.core.errors import DataError
from lab.data.dataset import Boxes, ReadOptions
from lab.data.formats.recordio import boxes_of, iterate, pack, packed_boxes, read, unpack, write
from lab.data.records import MAGIC, frame, parse_index, read_record, scan
from tests.data.held import LABELS, Held, assert_equal, held, jpeg, noise

# Written by MXNet 1.9.1: MXIndexedRecordIO.write_idx of these payloads ...
PAYLOADS = [
    b"",
    b"a",
    b"abcd",
    MAGIC,
    b"abcd" + MAGIC,
    b"ab" + MAGIC,
    MAGIC + MAGIC + b"x",
    b"abcd" + MAGIC + b"efg",
    b"abcd" + MAGIC + b"efgh" + MAGIC + MAGIC,
    b"x" * 17,
]
MXNET_FRAMES = bytes.fromhex(
    "0a23d7ce000000000a23d7ce01000000610000000a23d7ce04000000616263640a23d7ce000000200a23d7ce000000600a23d7ce04000020"
    "616263640a23d7ce000000600a23d7ce0600000061620a23d7ce00000a23d7ce000000200a23d7ce000000400a23d7ce0100006078000000"
    "0a23d7ce04000020616263640a23d7ce03000060656667000a23d7ce04000020616263640a23d7ce04000040656667680a23d7ce00000040"
    "0a23d7ce000000600a23d7ce110000007878787878787878787878787878787878000000"
)
MXNET_INDEX = "0\t0\n1\t8\n2\t20\n3\t32\n4\t48\n5\t68\n6\t84\n7\t112\n8\t136\n9\t176\n"
# ... and by its tools/im2rec.py --pass-through, from a .lst file with classes, and one with --pack-label:
# "0 2 5 1 0.1 0.2 0.5 0.75 0.png" and "7 2 5 0 0.0 0.0 1.0 1.0 2 0.5 0.25 0.75 0.5 1.png".
PNG_0 = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000060000000408020000002266d914000000144944415478da63643811c5800a981830007142"
    "0054f6012a70fd1a550000000049454e44ae426082"
)
PNG_1 = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000060000000408020000002266d914000000144944415478da63d43811c5800a981830007142"
    "0060ae0152b0bb93ca0000000049454e44ae426082"
)
IM2REC_CLASSES = (
    bytes.fromhex("0a23d7ce65000000000000000000803f03000000000000000000000000000000")
    + PNG_0
    + bytes(3)
    + bytes.fromhex("0a23d7ce65000000000000000000000005000000000000000000000000000000")
    + PNG_1
    + bytes(3)
)
IM2REC_BOXES = (
    bytes.fromhex(
        "0a23d7ce81000000070000000000000000000000000000000000000000000000000000400000a0400000803fcdcccc3dcdcc4c3e0000003f"
        "0000403f"
    )
    + PNG_0
    + bytes(3)
    + bytes.fromhex(
        "0a23d7ce950000000c0000000000000007000000000000000000000000000000000000400000a0400000000000000000000000000000803f"
        "0000803f000000400000003f0000803e0000403f0000003f"
    )
    + PNG_1
    + bytes(3)
)


def payloads_of(content: bytes) -> list[bytes]:
    file, offset, found = BytesIO(content), 0, []
    while True:
        payload, offset = read_record(file, "test.rec", offset)
        if payload is None:
            return found
        found.append(payload)


def test_frames_are_those_of_mxnet(tmp_path: Path) -> None:
    assert b"".join(frame(payload) for payload in PAYLOADS) == MXNET_FRAMES
    assert payloads_of(MXNET_FRAMES) == PAYLOADS
    (tmp_path / "a.rec").write_bytes(MXNET_FRAMES)
    assert scan(tmp_path / "a.rec") == parse_index(MXNET_INDEX, "a.idx")


def test_a_split_record_by_hand() -> None:
    content = struct.pack("<II4sII3sx", 0xCED7230A, 1 << 29 | 4, b"abcd", 0xCED7230A, 3 << 29 | 3, b"efg")
    assert frame(b"abcd" + struct.pack("<I", 0xCED7230A) + b"efg") == content
    assert payloads_of(content) == [b"abcd\x0a\x23\xd7\xceefg"]


@given(st.lists(st.lists(st.sampled_from([MAGIC, b"a", b"bc", b"defg", MAGIC[:2]]), max_size=8).map(b"".join)))
def test_any_payloads_come_back(payloads: list[bytes]) -> None:
    assert payloads_of(b"".join(frame(payload) for payload in payloads)) == payloads


def test_class_file_of_im2rec(tmp_path: Path) -> None:
    (tmp_path / "a.rec").write_bytes(IM2REC_CLASSES)
    (tmp_path / "a.idx").write_text("3\t0\n5\t112\n")
    dataset = read(tmp_path / "a.rec")
    assert (dataset.labels, dataset.targets().tolist()) == (("0", "1"), [1, 0])
    assert [dataset.raw(index).image for index in range(2)] == [PNG_0, PNG_1]
    assert dataset[1].image[0, 0].tolist() == [40, 200, 90]
    assert (
        b"".join(frame(pack(label, key, png)) for label, key, png in ((1, 3, PNG_0), (0, 5, PNG_1))) == IM2REC_CLASSES
    )


def test_packed_labels_of_im2rec(tmp_path: Path) -> None:
    (tmp_path / "a.rec").write_bytes(IM2REC_BOXES)
    dataset = read(tmp_path / "a.rec", ReadOptions(kind="boxes", labels=LABELS))
    boxes = dataset.annotation(1)
    assert isinstance(boxes, Boxes)
    np.testing.assert_allclose(boxes.boxes_K4, [[0, 0, 6, 4], [3, 1, 4.5, 2]])
    assert boxes.classes_K.tolist() == [0, 2]
    np.testing.assert_allclose(dataset[0].label.boxes_K4, [[0.6, 0.8, 3, 3]], atol=1e-6)  # type: ignore[union-attr]
    first = Boxes.of([[0.1 * 6, 0.2 * 4, 3, 3]], [1])
    assert frame(pack(packed_boxes(first, (4, 6)), 0, PNG_0)) == IM2REC_BOXES[:140]


@pytest.mark.parametrize("kind", ["class", "boxes", "mask"])
def test_round_trip(kind: str, tmp_path: Path) -> None:
    expected = held(kind)  # type: ignore[arg-type]
    write(tmp_path / "a.rec", expected)
    options = ReadOptions(kind=kind)  # type: ignore[arg-type]
    found = read(tmp_path / "a.rec", options)
    assert_equal(found, expected, atol=1e-5)
    (tmp_path / "a.idx").unlink()
    assert_equal(read(tmp_path / "a.rec", options), expected, atol=1e-5)
    with (tmp_path / "a.rec").open("rb") as file:
        streamed = list(iterate(file, "a.rec", options))
    assert [raw.image for raw in streamed] == expected.images
    assert found.digest == read(tmp_path / "a.rec", options).digest


def test_several_labels(tmp_path: Path) -> None:
    hot = [np.float32(row) for row in ([1, 0, 1], [0, 0, 0], [0, 1, 0])]
    images = [jpeg(noise(index, 8, 8)) for index in range(3)]
    write(tmp_path / "a.rec", Held("class", images, hot, LABELS))
    assert read(tmp_path / "a.rec", ReadOptions(label_format="multi-hot")).targets().tolist() == np.stack(hot).tolist()
    ids = b"".join(frame(pack(np.float32(row), 0, images[0])) for row in ([0, 2], [1]))
    (tmp_path / "b.rec").write_bytes(ids)
    found = read(tmp_path / "b.rec", ReadOptions(label_format="class-id"))
    assert found.targets().tolist() == [[1, 0, 1], [0, 1, 0]]
    with pytest.raises(DataError, match="more or fewer than one label"):
        read(tmp_path / "b.rec")


def test_label_width_pads_and_difficult_is_the_sixth_column() -> None:
    boxes = Boxes.of([[0, 0, 5, 5]], [1], [True])
    label = packed_boxes(boxes, (10, 10), object_width=6, label_width=20)
    assert label.tolist() == [2, 6, 1, 0, 0, 0.5, 0.5, 1, *[-1] * 12]
    found = boxes_of(label, "a")
    assert (found.classes_K.tolist(), found.ignore_K.tolist()) == ([1], [True])
    assert packed_boxes(Boxes.of([], []), (3, 3)).tolist() == [2, 5, -1, -1, -1, -1, -1]
    # An extra header, and padding that is not whole rows.
    wide = boxes_of(np.float32([4, 5, 640, 480, 2, 0, 0, 1, 1, -1, -1]), "a")
    assert wide.classes_K.tolist() == [2]


@pytest.mark.parametrize("cut", [3, 11, 60, -1])
def test_truncated(cut: int, tmp_path: Path) -> None:
    (tmp_path / "a.rec").write_bytes(IM2REC_CLASSES[:cut])
    with pytest.raises(DataError, match=r"a\.rec is damaged or truncated at byte \d+"):
        read(tmp_path / "a.rec")


def test_truncated_with_an_index(tmp_path: Path) -> None:
    (tmp_path / "a.rec").write_bytes(IM2REC_CLASSES[:200])
    (tmp_path / "a.idx").write_text("3\t0\n5\t112\n")
    dataset = read(tmp_path / "a.rec", ReadOptions(num_classes=2))
    assert dataset[0].label == 1
    with pytest.raises(DataError, match="truncated at byte 112"):
        dataset[1]
    (tmp_path / "a.idx").write_text("3\t0\n5\t999\n")
    with pytest.raises(DataError, match="places a record at byte 999"):
        read(tmp_path / "a.rec")
    (tmp_path / "a.idx").write_text("3 0\n")
    with pytest.raises(DataError, match=r"a\.idx:1 is no line of an index"):
        read(tmp_path / "a.rec")


def test_damaged_records(tmp_path: Path) -> None:
    path = tmp_path / "a.rec"
    path.write_bytes(IM2REC_CLASSES[:112] + b"junk" + IM2REC_CLASSES[116:])
    with pytest.raises(DataError, match="truncated at byte 112") as caught:
        read(path)
    assert "6a756e6b" in str(caught.value)
    path.write_bytes(MAGIC + struct.pack("<I", 2 << 29))
    with pytest.raises(DataError, match="part 2 of a split record"):
        scan(path)
    with pytest.raises(DataError, match="no image record"):
        unpack(struct.pack("<IfQQ", 9, 0, 0, 0), "x")
    with pytest.raises(DataError, match=r"there is no \.rec file"):
        read(tmp_path / "b.rec")
    path.write_bytes(b"")
    with pytest.raises(DataError, match="holds no records"):
        read(path)


def test_wrong_labels(tmp_path: Path) -> None:
    (tmp_path / "a.rec").write_bytes(IM2REC_CLASSES)
    with pytest.raises(DataError, match="no packed label"):
        read(tmp_path / "a.rec", ReadOptions(kind="boxes"))
    dataset = read(tmp_path / "a.rec", ReadOptions(num_classes=1))
    with pytest.raises(DataError, match="class index out of range"):
        dataset[0]
    masks = read(tmp_path / "a.rec", ReadOptions(kind="mask", num_classes=2))
    with pytest.raises(DataError, match="has no mask"):
        masks[0]
    with pytest.raises(DataError, match="half an object"):
        boxes_of(np.float32([2, 5, 1, 0, 0, 1]), "a")
