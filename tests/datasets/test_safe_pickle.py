"""Pickled tensors: every way of writing one is read, and no code of a file is executed."""

import io
import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch

from avsmamba.datasets.readers import read_log_mel, read_pickled_tensor
from avsmamba.utils import UserError
from tests.datasets.trees import random_patches, write_pickle


@pytest.mark.parametrize("protocol", range(2, 6))
def test_tensors_by_pickle(tmp_path, protocol):
    patches = random_patches(5)
    for value in (patches, patches.clone().requires_grad_(), torch.nn.Parameter(patches), patches.numpy()):
        write_pickle(tmp_path / "a.pkl", value, protocol)
        read = read_log_mel(tmp_path / "a.pkl", 5)
        assert torch.equal(read, patches) and not read.requires_grad and read.dtype == torch.float32


def test_tensors_by_torch_save(tmp_path):
    patches = random_patches(5)
    for zipped in (True, False):
        torch.save(patches, tmp_path / "a.pkl", _use_new_zipfile_serialization=zipped)
        assert torch.equal(read_log_mel(tmp_path / "a.pkl", 5), patches)


def test_views_and_other_dtypes(tmp_path):
    base = torch.randn(3, 2, 64, 96, generator=torch.Generator().manual_seed(1))
    for value in (base[:, 1:].transpose(2, 3), base.double()[:, :1].transpose(2, 3), base.half()[:, :1].mT):
        write_pickle(tmp_path / "a.pkl", value)
        assert torch.equal(read_log_mel(tmp_path / "a.pkl", 3), value.float())
    write_pickle(tmp_path / "a.pkl", np.asfortranarray(base.mT[:, :1].numpy()))
    assert torch.equal(read_log_mel(tmp_path / "a.pkl", 3), base.mT[:, :1])


class Call:
    """Pickles to a call."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def attacks(marker):
    """Files that run something when they are loaded the usual way: by pickle, inside the storage, by torch.save."""
    command = f"touch {marker}"
    yield pickle.dumps(Call(os.system, command))
    yield pickle.dumps({"x": [Call(eval, f"open({str(marker)!r}, 'w')")]})
    yield pickle.dumps(Call(torch.storage._load_from_bytes, pickle.dumps(Call(os.system, command))))
    # The old names of the same things, and a name reached through a dot.
    yield b"cposix\nsystem\n(S'" + command.encode() + b"'\ntR."
    yield b"c__builtin__\neval\n(S'open(" + repr(str(marker)).encode().replace(b"'", b'"') + b',"w")\'\ntR.'
    yield b"\x80\x04\x8c\x0btorch._utils\x8c\x0fimportlib.import\x93."
    yield b"\x80\x04\x8c\x05numpy\x8c\x13ndarray.__reduce__\x93."
    for zipped in (True, False):
        file = io.BytesIO()
        torch.save(Call(os.system, command), file, _use_new_zipfile_serialization=zipped)
        yield file.getvalue()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_no_code_of_a_file_is_run(tmp_path):
    count = 0
    for content in attacks(tmp_path / "ran"):
        (tmp_path / "evil.pkl").write_bytes(content)
        with pytest.raises(UserError, match=r"evil\.pkl: cannot be read as a pickled tensor"):
            read_log_mel(tmp_path / "evil.pkl", 5)
        assert not (tmp_path / "ran").exists()
        count += 1
    assert count == 9
    # The first of them works where nothing guards against it.
    pickle.loads(next(attacks(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


def test_a_file_cannot_change_what_others_are_read_with(tmp_path):
    # BUILD with slot state: setattr(_rebuild_tensor_v2, "__defaults__", ...)
    inner = b"\x8c\x0c__defaults__\x8c\x01x\x85"
    content = b"\x80\x04ctorch._utils\n_rebuild_tensor_v2\nN}" + inner + b"s\x86b."
    (tmp_path / "evil.pkl").write_bytes(content)
    with pytest.raises(UserError, match="expected a pickled tensor, got function"):
        read_log_mel(tmp_path / "evil.pkl", 5)
    assert torch._utils._rebuild_tensor_v2.__defaults__ == (None,)
    write_pickle(tmp_path / "good.pkl", random_patches(2))
    assert len(read_log_mel(tmp_path / "good.pkl", 2)) == 2


def test_a_tensor_cannot_reach_beyond_its_storage(tmp_path):
    storage = torch.zeros(4).untyped_storage()
    file = io.BytesIO()
    torch.save(torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True), file)
    store = Call(torch.storage._load_from_bytes, file.getvalue())
    for offset, size, stride in [(0, (5,), (1,)), (2, (3,), (1,)), (-1, (2,), (1,)), (0, (2, 2), (10, 1))]:
        write_pickle(
            tmp_path / "a.pkl", Call(torch._utils._rebuild_tensor_v2, store, offset, size, stride, False, OrderedDict())
        )
        with pytest.raises(UserError, match=r"a\.pkl: cannot be read"):
            read_pickled_tensor(tmp_path / "a.pkl")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.zeros(5, 96, 64), "expected log-mel patches of shape (5, 1, 96, 64), got (5, 96, 64)"),
        (torch.zeros(5, 1, 64, 96), "got (5, 1, 64, 96)"),
        (torch.zeros(0, 1, 96, 64), "got (0, 1, 96, 64)"),
        (torch.full((5, 1, 96, 64), float("nan")), "not finite"),
        (torch.zeros(5, 1, 96, 64, dtype=torch.complex64), "pickled tensor"),
        (np.array(["a"]), "expected a pickled tensor, got ndarray"),
        (np.array([None]), "expected a pickled tensor, got ndarray"),
        ([1.0, 2.0], "expected a pickled tensor, got list"),
        (7, "expected a pickled tensor, got int"),
    ],
)
def test_files_with_something_else(tmp_path, value, words):
    write_pickle(tmp_path / "a.pkl", value)
    with pytest.raises(UserError) as caught:
        read_log_mel(tmp_path / "a.pkl", 5)
    assert str(caught.value).startswith(f"{tmp_path / 'a.pkl'}: ") and words in str(caught.value)


def test_broken_files(tmp_path):
    content = pickle.dumps(random_patches(5))
    for part in (b"", content[:5], content[:70], content[: len(content) // 2], content[:-3], b"PK\x03\x04rubbish"):
        (tmp_path / "a.pkl").write_bytes(part)
        with pytest.raises(UserError, match=r"a\.pkl: cannot be read as a pickled tensor"):
            read_log_mel(tmp_path / "a.pkl", 5)
    with pytest.raises(UserError, match="no such file"):
        read_log_mel(tmp_path / "b.pkl", 5)
