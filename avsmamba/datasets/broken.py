"""Clips whose files cannot be read: in a long training they are skipped, counted and reported."""

import logging
from collections.abc import Callable
from typing import TypeVar

import torch
from mmengine.logging import print_log

from avsmamba.utils import UserError

Item = TypeVar("Item")
ON_BROKEN = ("raise", "skip")


class BrokenClips:
    """Read items, and in the place of a clip that cannot be read the next one that can.

    The clips that were found are shared by the workers of a process, and each is reported once. Random numbers are
    those of a run in which the broken clip was known from the start, so a resumed training sees the same clips.

    Args:
        count: number of clips.
        limit: greatest number of broken clips.
    """

    def __init__(self, count: int, limit: int):
        self.limit = limit
        self.found = torch.zeros(count, dtype=torch.bool).share_memory_()

    def read(self, index: int, read_item: Callable[[int], Item], name_of: Callable[[int], str]) -> Item:
        """Return `read_item(index)`, or that of the next clip which can be read; `name_of(index)` is for the log.

        Raises:
            UserError: if more clips than the limit are broken; names the last one's fault.
        """
        count = len(self.found)
        for i in (*range(index, count), *range(index)):
            if self.found[i]:
                continue
            state = torch.get_rng_state()
            try:
                return read_item(i)
            except UserError as error:
                torch.set_rng_state(state)
                self.found[i] = True
                broken = int(self.found.sum())
                if broken > self.limit:
                    raise UserError(f"{error}; {broken} broken clips, max_broken is {self.limit}") from None
                words = f"clip {name_of(i)} is skipped, broken clip {broken} (at most {self.limit}): {error}"
                print_log(words, "current", logging.WARNING)
        raise UserError(f"all {count} clips are broken")


def broken_clips(on_broken: str, test_mode: bool, count: int, limit: int) -> BrokenClips | None:
    """Return what skips broken clips, or None where they raise.

    Raises:
        UserError: if `on_broken` is unknown, or is 'skip' in testing.
    """
    if on_broken not in ON_BROKEN:
        raise UserError(f"on_broken: expected one of {', '.join(ON_BROKEN)}, got {on_broken!r}")
    if on_broken == "skip" and test_mode:
        raise UserError("on_broken: 'skip' is for training only; this data set is read for testing")
    return BrokenClips(count, limit) if on_broken == "skip" else None
