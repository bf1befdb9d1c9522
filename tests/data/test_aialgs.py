"""The hand-written wire format against Google's own implementation."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st

from lab.core.errors import DataError
from lab.data.aialgs import decode_record, encode_record


def make_record_class() -> Any:
    """aialgs.data.Record from a descriptor: the part of it that seq2seq uses, and two fields that it must skip."""
    file = descriptor_pb2.FileDescriptorProto(name="aialgs.proto", package="aialgs", syntax="proto2")
    optional, repeated = (
        descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL,
        descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED,
    )
    kinds = descriptor_pb2.FieldDescriptorProto

    def message(name: str, *fields: tuple[str, int, int, int, str]) -> Any:
        added = file.message_type.add(name=name)
        for field, number, label, kind, of in fields:
            made = added.field.add(name=field, number=number, label=label, type=kind)  # type: ignore[arg-type]
            if of:
                made.type_name = of
            if label == repeated and kind in (kinds.TYPE_INT32, kinds.TYPE_UINT64, kinds.TYPE_FLOAT):
                made.options.packed = True
        return added

    message("Int32Tensor", ("values", 1, repeated, kinds.TYPE_INT32, ""), ("shape", 3, repeated, kinds.TYPE_UINT64, ""))
    message("Float32Tensor", ("values", 1, repeated, kinds.TYPE_FLOAT, ""))
    message(
        "Value",
        ("float32_tensor", 2, optional, kinds.TYPE_MESSAGE, ".aialgs.Float32Tensor"),
        ("int32_tensor", 7, optional, kinds.TYPE_MESSAGE, ".aialgs.Int32Tensor"),
    )
    record = message(
        "Record",
        ("features", 1, repeated, kinds.TYPE_MESSAGE, ".aialgs.Record.FeaturesEntry"),
        ("uid", 3, optional, kinds.TYPE_STRING, ""),
    )
    entry = record.nested_type.add(name="FeaturesEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=optional, type=kinds.TYPE_STRING)
    entry.field.add(name="value", number=2, label=optional, type=kinds.TYPE_MESSAGE, type_name=".aialgs.Value")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("aialgs.Record"))


RECORD = make_record_class()
NUMBERS = st.lists(st.integers(-(2**31), 2**31 - 1), max_size=40)


@given(source=NUMBERS, target=NUMBERS)
def test_what_we_write_google_reads_and_the_other_way_round(source: list[int], target: list[int]) -> None:
    ours = encode_record({"source": source, "target": target})
    read = RECORD.FromString(ours)
    assert list(read.features["source"].int32_tensor.values) == source
    assert list(read.features["target"].int32_tensor.values) == target
    written = RECORD()
    written.features["source"].int32_tensor.values.extend(source)
    written.features["target"].int32_tensor.values.extend(target)
    found = decode_record(written.SerializeToString(), "x")
    assert {name: values.tolist() for name, values in found.items()} == {"source": source, "target": target}


def test_bytes_are_those_of_google() -> None:
    written = RECORD()
    written.features["source"].int32_tensor.values.extend([4, 300, 70000])
    assert encode_record({"source": [4, 300, 70000]}) == written.SerializeToString()


def test_fields_that_are_not_ours_are_skipped() -> None:
    written = RECORD(uid="17")
    written.features["floats"].float32_tensor.values.extend([1.5])
    written.features["source"].int32_tensor.values.extend([5])
    written.features["source"].int32_tensor.shape.append(1)
    assert {name: values.tolist() for name, values in decode_record(written.SerializeToString(), "x").items()} == {
        "source": [5]
    }


@given(st.binary(max_size=60))
def test_any_bytes_give_a_record_or_a_data_error(content: bytes) -> None:
    found: dict[str, np.ndarray] = {}
    with suppress(DataError):
        found = decode_record(content, "noise")
    assert all(values.dtype == np.int64 for values in found.values())


def test_a_truncated_record_is_named() -> None:
    with pytest.raises(DataError, match=r"r\.rec\[3\] is no protobuf Record"):
        decode_record(encode_record({"source": [1, 2, 3]})[:-1], "r.rec[3]")
