"""The folder in which data workers make their sockets; their end and death are in `test_faults.py`."""

import multiprocessing.util
import tempfile
from multiprocessing.connection import Listener

import pytest
from mmengine.config import Config

from avsmamba.engine.train import train
from avsmamba.engine.workers import check_sockets
from avsmamba.utils import UserError
from tests.engine.standins import config

pytestmark = pytest.mark.skipif(
    hasattr(multiprocessing.util, "_get_base_temp_dir"), reason="this Python takes a shorter folder by itself"
)


def test_the_longest_folder_that_is_accepted_is_the_longest_that_works(monkeypatch):
    with tempfile.TemporaryDirectory(dir="/tmp") as base:
        for length, fits in ((75, True), (76, False)):
            monkeypatch.setattr(tempfile, "tempdir", base + "/" + "x" * (length - len(base) - 1))
            # As long as the path of a worker's socket there.
            address = base + "/" + "y" * (length + len("/pymp-12345678/listener-12345678") - len(base) - 1)
            if fits:
                check_sockets(Config({"train_dataloader": {"num_workers": 1}}))
                Listener(address, "AF_UNIX").close()
            else:
                with pytest.raises(UserError, match=r"has 76 characters.*at most 75.*TMPDIR"):
                    check_sockets(Config({"train_dataloader": {"num_workers": 1}}))
                with pytest.raises(OSError, match="too long"):
                    Listener(address, "AF_UNIX")
                check_sockets(Config({"train_dataloader": {"num_workers": 0}, "val_dataloader": None}))


def test_a_training_is_refused_before_it_writes(monkeypatch, tmp_path):
    path = config(tmp_path, "iter", 1, False)
    monkeypatch.setattr(tempfile, "tempdir", "/tmp/" + "x" * 90)
    with pytest.raises(UserError, match="num_workers to 0"):
        train(path, str(tmp_path / "work"))
    assert not [p for p in (tmp_path / "work").rglob("*") if p.is_file()]
