"""A page that shows a few imported clips with their labels and sound."""

from collections.abc import Mapping
from typing import Any

import cv2

from avsmamba.own_data.layout import Layout
from avsmamba.reports.clips import arrays, evenly_spaced
from avsmamba.reports.pages import render
from avsmamba.visualization.canvas import resize, write_png
from avsmamba.visualization.clip_picture import legend_names, panes_of, truths
from avsmamba.visualization.grid import grid

PAGE, PICTURES = "preview.html", "preview"
WIDEST = 240  # pixels of a frame


def write_preview(layout: Layout, datasets: Mapping[str, Any], source: str, count: int) -> None:
    """Write `preview.html` and `preview/*.png` beside the table of clips; all links are relative.

    Args:
        layout: that wrote the clips.
        datasets: the data sets that read them, by split.
        source: of the labels, for the page.
        count: of clips, evenly spread over all.
    """
    places = [(dataset, i) for dataset in datasets.values() for i in range(len(dataset))]
    shown = []
    for number in evenly_spaced(count, len(places)):
        dataset, index = places[number]
        clip, picture = dataset.clips[index], f"{PICTURES}/{number}.png"
        write_png(layout.folder / picture, _draw(dataset[index], dataset.metainfo["classes"]))
        category = "" if clip.category == "" else clip.category.replace("+", ", ")
        sound = layout.wav(clip).as_posix()
        shown.append({"name": clip.name, "split": clip.split, "category": category, "picture": picture, "sound": sound})
    text = render(
        "import.html.j2",
        title=f"{len(places)} imported clips",
        source=source,
        counts={split: len(dataset) for split, dataset in datasets.items()},
        clips=shown,
    )
    (layout.folder / PAGE).write_text(text, encoding="utf-8")


def _draw(item: dict[str, Any], classes: tuple[str, ...]) -> Any:
    """Draw the existing frames of a clip and, below, their labels."""
    frames, masks, labelled, exists = arrays(item)
    semantic = item["data_samples"].subset == "avss"
    height, width = frames.shape[-2:]
    panes = panes_of(frames[exists])
    if width > WIDEST:
        size = WIDEST, max(1, round(height * WIDEST / width))
        panes = [resize(frame.transpose(1, 2, 0), *size, cv2.INTER_AREA) for frame in frames[exists]]
    rows = {"frame": panes, "label": truths(panes, masks[exists], labelled[exists], semantic)}
    names = legend_names(classes, masks[exists & labelled]) if semantic else None
    return grid(rows, item["data_samples"].clip, [f"second {t + 1}" for t in range(len(panes))], names)
