"""The page: which handler runs at which event."""

from typing import Any

import gradio as gr

from avsmamba.web.handlers import Handlers
from avsmamba.web.layout import LIFETIME, OTHER, Layout
from avsmamba.web.work import AppState


def build(app: AppState, max_queue: int) -> gr.Blocks:
    """Build the page.

    Args:
        app: models and limits.
        max_queue: requests that may wait; the next one is refused with a message.
    """
    with gr.Blocks(title="avsmamba", analytics_enabled=False, delete_cache=(600, LIFETIME)) as blocks:
        page = Layout(app)
        _connect(page, Handlers(app, page))

        # Gradio keeps the state of a closed tab for an hour; async, because Gradio's event loop owns the states.
        async def on_unload(request: gr.Request) -> None:
            blocks.state_holder.delete_state(request.session_hash)

        blocks.unload(on_unload)
    return blocks.queue(max_size=max_queue, api_open=False)


def _connect(page: Layout, do: Handlers) -> None:
    files = [page.overlay, page.timeline, page.download, page.swapped]
    stills = [page.still, page.numbers, page.own, page.other, page.change]
    private: dict[str, Any] = {"api_visibility": "private"}
    quick: dict[str, Any] = {"concurrency_limit": 8, "show_progress": "hidden", **private}
    predict: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, **private}
    settings = [page.moment, page.threshold]

    page.video.change(do.on_upload, [page.session, page.video], [page.session, page.notice, page.go], **quick)
    page.example.click(do.on_example, None, [page.video, page.notice], show_progress_on=[page.video], **private)
    page.go.click(
        do.on_run,
        [page.session, page.video, page.model, page.rate, page.threshold],
        [page.notice, page.results, page.moment, page.pair, *files, *stills],
        show_progress_on=[page.overlay],
        **predict,
    )
    for slider in settings:
        slider.input(do.on_slider, [page.session, *settings], stills, trigger_mode="always_last", **quick)
    page.threshold.release(
        do.on_release,
        [page.session, page.threshold],
        files,
        trigger_mode="always_last",
        show_progress_on=[page.overlay],
        concurrency_limit=2,
        **private,
    )
    page.sound.change(lambda kind: gr.update(visible=kind == OTHER), page.sound, page.file, **quick)
    page.file.change(do.on_sound, [page.session, page.file], page.warning, **quick)
    page.swap.click(
        do.on_compare,
        [page.session, page.sound, page.file, *settings],
        [page.warning, page.pair, *files, *stills],
        show_progress_on=[page.change],
        **predict,
    )
