"""Files of tensors: byte for byte those of the safetensors library, and nothing read that does not add up."""

from __future__ import annotations

import hashlib
import io
import json

import pytest
import torch
from safetensors.torch import load, save

from pyrovae.inference.checkpoint.tensor_file import (
    DTYPES,
    TensorFileError,
    read_header,
    read_tensors,
    refuse_unwritable,
    write_tensors,
)
from pyrovae.inference.checkpoint.tensors import shape_names


def tensors():
    """Some of each dtype, of no axes, of no values, not contiguous, and with names that JSON escapes."""
    made = {
        f"{name}.{kind}é": torch.arange(6).reshape(2, 3).to(dtype) for kind, dtype in DTYPES.items() for name in "ba"
    }
    made |= {"scalar": torch.tensor(3.0), "none": torch.zeros(0, 3), 'a"b\\c\n': torch.ones(1)}
    return made | {"turned": torch.arange(6.0).reshape(2, 3).T, "conj": torch.tensor([1 + 2j]).conj()}


def test_what_is_written_is_what_the_library_writes_and_reads():
    file, made = io.BytesIO(), tensors()
    digest = write_tensors(file, made)
    content = file.getvalue()
    plain = {name: t.resolve_conj().contiguous() for name, t in made.items()}
    assert content == save(plain) and digest == hashlib.sha256(content).hexdigest()
    again = load(content)
    file.seek(0)
    entries = read_header(file, len(content), shape_names(made), 10**6)
    seen = hashlib.sha256(content[: file.tell()])
    read = read_tensors(file, entries, lambda name, entry: None, seen)
    assert seen.hexdigest() == digest and read.keys() == again.keys() == made.keys()
    for name, t in read.items():
        assert t.dtype == again[name].dtype == made[name].dtype and t.shape == made[name].shape
        assert t.flatten().view(torch.uint8).tolist() == again[name].flatten().view(torch.uint8).tolist()


def header_of(**changes):
    record = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes
    return {"t": {name: value for name, value in record.items() if value is not None}}


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (header_of(), None),
        (header_of() | {"__metadata__": {"format": "pt"}}, None),
        (header_of(dtype="F128"), "has dtype 'F128', and these are read: F64"),
        (header_of(dtype=["F32"]), "has dtype"),
        (header_of(shape=[3]), "takes 8 bytes there, and its shape and dtype 12"),
        (header_of(shape=[2.0]), "no shape and place"),
        (header_of(shape=[True, 2]), "no shape and place"),
        (header_of(shape=[-2, -1]), "no shape and place"),
        (header_of(shape=[1] * 65 + [2]), "no shape and place"),
        (header_of(shape=None), "says no dtype, shape and place"),
        (header_of(more=1), "says no dtype, shape and place"),
        (header_of(data_offsets=[0, 8, 9]), "no shape and place"),
        (header_of(data_offsets=[4, 12]), "begins at byte 4, and the tensor before it ends at 0"),
        (header_of(shape=[1], data_offsets=[0, 4]), r"t is of shape \[1\] there, and the manifest says \[2\]"),
        (header_of(shape=[2, 1]), r"t is of shape \[2, 1\] there, and the manifest says \[2\]"),
        ({"u": header_of()["t"]}, "1 more than the manifest, as 'u' and 1 fewer, as 't'"),
        ([1], "is not a table of tensors"),
        ("{", "is no JSON"),
    ],
)
def test_a_header_must_add_up(header, words):
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    content = len(text).to_bytes(8, "little") + text + bytes(8)
    for length in (len(content), len(content) + 1, 3, 8):
        if words is None and length == len(content):
            read_header(io.BytesIO(content), length, {"t": "[2]"}, 1000)
            continue
        with pytest.raises(TensorFileError, match=words if length == len(content) else None):
            read_header(io.BytesIO(content[:length]), length, {"t": "[2]"}, 1000)
    with pytest.raises(TensorFileError, match=r"it has a header of .* bytes, and that of these tensors takes 0"):
        read_header(io.BytesIO(content), len(content), {"t": "[2]"}, 0)


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.eye(2).to_sparse(), "of layout torch.sparse_coo"),
        (torch.empty(2, device="meta"), "on the device meta"),
        (torch.zeros(2, dtype=torch.complex128), "of dtype complex128"),
        (torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]), "nested"),
        (torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "quantized"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_no_file_can_hold_is_told_by_name(tensor, words):
    with pytest.raises(TypeError, match=f"'t' of the pair's state is {words}.*: convert it before"):
        refuse_unwritable("t", tensor)
