"""S4, MS3 and AVSS from shards: the same items as from files, from the same transforms and random numbers."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avsmamba.datasets.avsbench import AVSBench, AVSBenchMS3, AVSBenchS4, padded
from avsmamba.datasets.avss import AVSBenchAVSS
from avsmamba.datasets.clip_table import Clip
from avsmamba.datasets.log_mel import log_mel_patches
from avsmamba.datasets.readers import (
    Content,
    attempt,
    checked_patches,
    fit_patches,
    read_class_indices,
    read_frame,
    read_mask,
    read_wav,
)
from avsmamba.datasets.shards.index import INDEX, Rows, Shards, read_index, read_members, read_rows
from avsmamba.datasets.shards.store import Store
from avsmamba.registry import DATASETS
from avsmamba.utils import UserError


class Sharded(AVSBench):
    """Base class of the data sets that read what `avsmamba shards` wrote; `data_root` is a `Store`'s root.

    Every clip is one range of bytes of a shard, so that clips are read in any order and the seeded samplers, and with
    them an exact resume, are those of files. With shards of features an item has, instead of `frames`, `maps`: four
    tensors `(T, C_i, h_i, w_i)`, float32 or float16, of a frozen backbone.
    """

    shards: Shards
    rows: Rows
    _last: tuple[int, dict[str, bytes]] = (-1, {})

    def locate(self, data_root: str) -> tuple[Any, Any]:
        local = Path(data_root).expanduser()
        store = Store(str(local) if local.is_dir() else data_root)
        place = store.place(INDEX)
        self.shards = read_index(store)
        if self.shards.subset != self.SUBSET:
            raise UserError(
                f"{place}: expected subset {self.SUBSET!r} for {type(self).__name__}, got {self.shards.subset!r}"
            )
        if self.shards.kind == "features" and self.test_mode:
            raise UserError(f"{place}: features of a backbone are for training; tests read frames")
        if self.shards.kind == "features" and self.pipeline:
            raise UserError(f"{place}: expected an empty pipeline: the features are of transformed frames")
        self.rows = read_rows(store, self.shards, self.split)
        self.store = store
        return Path(str(store)), place  # the layout's rules for names still apply

    def read_clips(self, table: Any) -> list[Clip]:
        return self.rows.clips

    def classes(self) -> tuple[str, ...]:
        return self.shards.classes

    def clips_without_wav(self) -> int:
        return int((~self.rows.wav).sum())

    @property
    def shard_sizes(self) -> list[int]:
        """Clips of each shard, which `ShardSampler` reads."""
        return [shard["clips"] for shard in self.rows.shards]

    def members(self, clip: Clip, head_only: bool = False) -> dict[str, bytes]:
        """Return the files of a clip by name; with `head_only` perhaps only those of its row and sound."""
        if self._last[0] == clip.place:
            return self._last[1]
        found = read_members(self.store, self.rows, clip.place, head_only)
        if not head_only:
            self._last = (clip.place, found)  # its sound is read after its pictures
        return found

    def source(self, clip: Clip, name: str, members: dict[str, bytes]) -> Content:
        """Return a file of a clip.

        Raises:
            UserError: if the clip has none of this name.
        """
        place = f"{self.store.place(self.rows.shards[self.rows.shard[clip.place]]['name'])}: {clip.name}: {name}"
        if name not in members:
            raise UserError(f"{place}: no such file in the shard")
        return Content(place, members[name])

    def faults(self, index: int) -> list[str]:
        clip, faults = self.clips[index], list[str]()
        attempt(faults, self.read_pictures, clip, faults)
        if not faults:
            attempt(faults, self.read_own_log_mel, clip, self.existing_frames(clip))
            if self.rows.wav[clip.place]:
                attempt(faults, self.read_waveform, clip)
        return faults

    def read_pictures(self, clip: Clip, faults: list[str]) -> tuple[list[Any], list[Any]]:
        """As of files; with features the frames are blank pictures."""
        members = self.members(clip)
        count, labelled = self.existing_frames(clip), self.labelled_frames(clip)
        names = {kind: sorted(n for n in members if n.startswith(kind)) for kind in ("frame_", "mask_")}
        masks = [attempt(faults, self.decode_mask, self.source(clip, n, members)) for n in names["mask_"]]
        frames: list[Any]
        if self.shards.kind == "features":
            size = self.read_array(clip, "frame_size.npy", members)
            frames = [np.broadcast_to(np.uint8(0), (*size.tolist(), 3))] * count
        else:
            frames = [attempt(faults, read_frame, self.source(clip, n, members)) for n in names["frame_"]]
        if (len(frames), len(masks)) != (count, labelled):
            place = self.source(clip, names["mask_"][0] if masks else "json", members)
            faults.append(f"{place}: expected {count} frames and {labelled} masks, got {len(frames)} and {len(masks)}")
        elif not faults and not self.test_mode and masks[0].shape != frames[0].shape[:2]:
            (h, w), (height, width) = masks[0].shape, frames[0].shape[:2]
            faults.append(
                f"{self.source(clip, names['mask_'][0], members)}: has {h} x {w} pixels, its frame {height} x {width}: "
                f"masks of split {self.split!r} were packed for testing, at their own size"
            )
        return frames, masks

    def decode_mask(self, source: Content) -> np.ndarray:
        """Return a mask `(h, w)` uint8 of 0 and 1, or of class indices."""
        return read_class_indices(source) if self.SUBSET == "avss" else read_mask(source)

    def read_own_log_mel(self, clip: Clip, num_frames: int) -> Tensor:
        members = self.members(clip, head_only=True)
        if "log_mel.npy" in members and (self.log_mel_from == "file" or "wav" not in members):
            patches = torch.from_numpy(self.read_array(clip, "log_mel.npy", members))
            return fit_patches(
                checked_patches(patches, self.source(clip, "log_mel.npy", members), num_frames), num_frames
            )
        return fit_patches(log_mel_patches(*self.read_waveform(clip)), num_frames)

    def read_waveform(self, clip: Clip) -> tuple[np.ndarray, int]:
        return read_wav(self.source(clip, "wav", self.members(clip, head_only=True)))

    def read_array(self, clip: Clip, name: str, members: dict[str, bytes]) -> np.ndarray:
        """Return an array of a clip.

        Raises:
            UserError: if it is missing or damaged.
        """
        source = self.source(clip, name, members)
        try:
            return np.load(io.BytesIO(source.content), allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise UserError(f"{source}: cannot be read as an array: {error}") from None

    def pack(self, index: int, frames: Any, masks: Any, log_mel: Tensor) -> dict[str, Any]:
        item = super().pack(index, frames, masks, log_mel)
        if self.shards.kind == "features":
            clip = self.clips[index]
            maps = [
                self.read_array(clip, f"map_{i}.npy", self.members(clip)) for i in range(self.shards.settings["maps"])
            ]
            del item["frames"]
            item["maps"] = [padded(torch.from_numpy(m), self.num_frames) for m in maps]
            item["data_samples"].set_metainfo({"backbone": self.shards.settings["backbone"]})
        return item


@DATASETS.register_module()
class ShardedS4(Sharded, AVSBenchS4):
    """`AVSBenchS4` from shards; `data_root` is the folder, URL or command that has them, see `Store`."""


@DATASETS.register_module()
class ShardedMS3(Sharded, AVSBenchMS3):
    """`AVSBenchMS3` from shards; `data_root` is the folder, URL or command that has them, see `Store`."""


@DATASETS.register_module()
class ShardedAVSS(Sharded, AVSBenchAVSS):
    """`AVSBenchAVSS` from shards; `data_root` is the folder, URL or command that has them, see `Store`."""

    def read_clips(self, table: Any) -> list[Clip]:
        return self.rows.clips

    def _with_kinds(self, clip: Clip) -> Clip:
        return clip  # the shards have the kinds of the masks
