"""Foreign sounds: of another clip, and as far as it is known of nothing that the clip's own pictures show."""

from collections.abc import Sequence

import numpy as np

from avsmamba.datasets.files import Clip


def foreign_clips(clips: Sequence[Clip], index: int) -> list[int]:
    """Places of the clips of which it is known that what sounds in them is not in the pictures of clip `index`."""
    seen = clips[index].seen
    return [i for i, other in enumerate(clips) if seen and other.heard and seen.isdisjoint(other.heard)]


def pick_foreign(clips: Sequence[Clip], index: int, seed: int) -> int:
    """One of `foreign_clips`; where there is none, any other clip. Drawn by a generator of this seed."""
    places = foreign_clips(clips, index) or [i for i in range(len(clips)) if i != index]
    return places[int(np.random.default_rng((seed, len(clips))).integers(len(places)))]


def what_is_known(clips: Sequence[Clip]) -> str:
    """'visible': all kinds that the pictures show; 'category': only those that sound; else 'nothing'."""
    if not all(clip.heard for clip in clips):
        return "nothing"
    return "visible" if all(clip.lists_visible for clip in clips) else "category"


def how_foreign(clips: Sequence[Clip]) -> dict[str, str | int]:
    """How sure it is that a swapped sound is of nothing in the pictures.

    Returns:
        `known`, see `what_is_known`, and `clips_without`, the number of clips that have no `foreign_clips`.
    """
    return {
        "known": what_is_known(clips),
        "clips_without": sum(not foreign_clips(clips, i) for i in range(len(clips))),
    }
