"""The page: what is on it and what each control does. The work itself is in `work.py`."""

import html
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from avsmamba.utils import UserError
from avsmamba.web import work
from avsmamba.web.results import Result
from avsmamba.web.sessions import Gone, Session, public

_LOG = logging.getLogger(__name__)
# Files that nobody holds any more go after so long; those of an open tab must outlive its longest use. (s)
_STALE_EVERY, _STALE_AFTER = 600, 24 * 3600
_SILENCE, _OTHER = "silence", "another sound"
_RATES = [("1 every 2 seconds", 0.5), ("1 (as trained)", 1.0), ("2", 2.0), ("4", 4.0)]
_SOUND_FILES = ["audio", "video", ".mkv", ".avi", ".mov", ".flac", ".ogg", ".opus"]
_FIXED: dict[str, Any] = {"interactive": False}
_PROGRESS = gr.Progress()
_CAMERA = {"video": {"width": {"ideal": 1280}, "height": {"ideal": 720}}}  # pixels; models look at far fewer


def theme() -> gr.themes.ThemeClass:
    """System fonts: nothing is fetched from elsewhere."""
    fonts = ["ui-sans-serif", "sans-serif"]
    return gr.themes.Soft(
        primary_hue="teal", neutral_hue="slate", font=fonts, font_mono=["ui-monospace", "monospace"], radius_size="sm"
    )


def build(desk: work.Desk, max_queue: int) -> gr.Blocks:
    """Lay the page out and wire it.

    Args:
        desk: models, limits and sessions.
        max_queue: how many requests may wait; the next is told that the queue is full.
    """
    with gr.Blocks(title="avsmamba", analytics_enabled=False, delete_cache=(_STALE_EVERY, _STALE_AFTER)) as page:
        gr.HTML(_heading(desk), padding=False)
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                video = gr.Video(
                    label="Video",
                    sources=["upload", "webcam"],
                    webcam_options=gr.WebcamOptions(mirror=False, constraints=_CAMERA),
                    include_audio=True,
                    elem_id="video",
                    buttons=[],
                )
                notice = gr.HTML(elem_id="notice", visible=False, padding=False)
                with gr.Row():
                    model = gr.Dropdown(list(desk.models), value=next(iter(desk.models)), label="Model", min_width=140)
                    rate = gr.Dropdown(_RATES, value=1.0, label="Pictures a second", min_width=140)
                go = gr.Button("Find what sounds", variant="primary", elem_id="go", interactive=False)
            with gr.Column(scale=3, min_width=320):
                overlay = gr.Video(label="What sounds, outlined", elem_id="overlay", buttons=["download"], **_FIXED)
                timeline = gr.Image(
                    label="Timeline",
                    show_label=False,
                    elem_id="timeline",
                    visible=False,
                    buttons=["fullscreen"],
                    **_FIXED,
                )
        with gr.Column(visible=False, elem_id="results") as results:
            with gr.Row(equal_height=False):
                with gr.Column(scale=2, min_width=320):
                    threshold = gr.Slider(
                        0.02,
                        0.98,
                        value=0.5,
                        step=0.02,
                        label="Threshold",
                        info="How sure the model must be. Moving it does not run the model again.",
                        elem_id="threshold",
                        buttons=[],
                    )
                    moment = gr.Slider(0, 1, value=0, step=1, label="Moment (s)", elem_id="moment", buttons=[])
                    numbers = gr.HTML(elem_id="numbers", padding=False)
                    download = gr.DownloadButton("Download everything (zip)", elem_id="download")
                with gr.Column(scale=3, min_width=320):
                    still = gr.Image(label="At this moment", elem_id="still", buttons=["fullscreen"], **_FIXED)
            gr.HTML("<h2>And if it sounded different?</h2>", elem_classes="section", padding=False)
            with gr.Row(equal_height=False):
                with gr.Column(scale=2, min_width=320):
                    sound = gr.Radio(
                        [_SILENCE, _OTHER], value=_SILENCE, label="The same pictures with", elem_id="sound"
                    )
                    file = gr.File(
                        label="A video or a sound file",
                        file_types=_SOUND_FILES,
                        visible=False,
                        height=130,
                        elem_id="file",
                    )
                    swap = gr.Button("Compare", elem_id="swap")
                    warning = gr.HTML(elem_id="warning", visible=False, padding=False)
                    change = gr.HTML(elem_id="change", padding=False)
                with gr.Column(scale=3, min_width=320):
                    with gr.Row(visible=False) as pair:
                        own = gr.Image(label="own sound", elem_id="own", buttons=[], min_width=150, **_FIXED)
                        other = gr.Image(label="the other", elem_id="other", buttons=[], min_width=150, **_FIXED)
                    swapped = gr.Video(
                        label="Outlined by that sound", elem_id="swapped", buttons=[], visible=False, **_FIXED
                    )

        drawn = [overlay, timeline, download, swapped]
        shown = [still, numbers, own, other, change]
        private: dict[str, Any] = {"api_visibility": "private"}
        model_turn: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, **private}
        drawing: dict[str, Any] = {"concurrency_id": "draw", "concurrency_limit": 2, **private}
        quick: dict[str, Any] = {"concurrency_limit": 8, "show_progress": "hidden", **private}

        def sent(path: str | None, request: gr.Request) -> list[Any]:
            """Says at once what the file is, or why it cannot be used."""
            desk.sessions.hold(_name(request), "video", Path(path) if path else None)
            if path is None:
                return [_hidden(), gr.update(interactive=False)]
            text, failed = _told(desk, _name(request), lambda: work.describe(desk, Path(path)))
            return [_note(text, failed), gr.update(interactive=not failed)]

        def found(path: str, model: str, rate: float, threshold: float, request: gr.Request, progress=_PROGRESS) -> Any:
            def run() -> list[Any]:
                session = desk.sessions.get(_name(request))
                report = _reporter(session, progress, "looking and listening")
                result = work.analyse(desk, session, Path(path), model, rate, report)
                progress(None, desc="drawing")
                with session.drawing:
                    files = _drawn(result, threshold)
                busiest, last = result.busiest(threshold), result.times[-1]
                slider = gr.update(maximum=last or 1, step=1 / rate, value=busiest, interactive=last > 0)
                everything = [gr.update(visible=True), slider, gr.update(visible=False)]
                return [_note(result.note, False), *files, *everything, *_shown(result, busiest, threshold)]

            return _or_note(_told(desk, _name(request), run), 13)

        def moved(moment: float, threshold: float, request: gr.Request) -> list[Any]:
            def run() -> list[Any]:
                result = desk.sessions.get(_name(request)).result
                return [gr.skip()] * len(shown) if result is None else _shown(result, moment, threshold)

            values, failed = _told(desk, _name(request), run)
            return [gr.skip()] * len(shown) if failed else values

        def let_go(threshold: float, request: gr.Request) -> list[Any]:
            def run() -> list[Any]:
                session = desk.sessions.get(_name(request))
                with session.drawing:
                    result = session.result
                    return [gr.skip()] * len(drawn) if result is None else _drawn(result, threshold)

            values, failed = _told(desk, _name(request), run)
            return [gr.skip()] * len(drawn) if failed else values

        def heard(
            kind: str, path: str | None, moment: float, threshold: float, request: gr.Request, progress=_PROGRESS
        ) -> Any:
            def run() -> list[Any]:
                session = desk.sessions.get(_name(request))
                result = session.result
                if result is None:
                    raise UserError("no result to compare with: run a video first")
                if kind == _OTHER and not path:
                    raise UserError("no file to take the sound from: drop one, or choose silence")
                report = _reporter(session, progress, "looking and listening to the other sound")
                work.compare(desk, session, result, Path(path) if path and kind == _OTHER else None, report)
                progress(None, desc="drawing")
                with session.drawing:
                    files = _drawn(result, threshold)
                return [_hidden(), *files, gr.update(visible=True), *_shown(result, moment, threshold)]

            return _or_note(_told(desk, _name(request), run), 11)

        def sound_sent(path: str | None, request: gr.Request) -> None:
            desk.sessions.hold(_name(request), "sound", Path(path) if path else None)

        def left(request: gr.Request) -> None:
            desk.sessions.close(_name(request))

        video.change(sent, video, [notice, go], **quick)
        go.click(
            found,
            [video, model, rate, threshold],
            [notice, *drawn, results, moment, pair, *shown],
            show_progress_on=[overlay],
            **model_turn,
        )
        for slider in (threshold, moment):
            slider.input(moved, [moment, threshold], shown, trigger_mode="always_last", **quick)
        threshold.release(let_go, threshold, drawn, trigger_mode="always_last", show_progress_on=[overlay], **drawing)
        sound.change(lambda kind: gr.update(visible=kind == _OTHER), sound, file, **quick)
        file.change(sound_sent, file, None, **quick)
        swap.click(
            heard,
            [sound, file, moment, threshold],
            [warning, *drawn, pair, *shown],
            show_progress_on=[change],
            **model_turn,
        )
        page.unload(left)
    page.queue(max_size=max_queue, api_open=False)
    return page


def _heading(desk: work.Desk) -> str:
    limits = f"Up to {desk.limits.max_seconds:g} s and {desk.limits.max_mb:g} MB."
    return (
        "<header><h1>What sounds in this video?</h1>"
        "<p>Drop a video or record one: whatever makes its sound is outlined, moment by moment. "
        "The model that comes along knows moving shapes and their timbres, not the world.</p>"
        f"<p class='faint'>{limits} Your files are removed when you close this page.</p></header>"
    )


def _name(request: gr.Request) -> str:
    if not request.session_hash:
        raise gr.Error("this page has lost its session; load it again")
    return request.session_hash


def _told(desk: work.Desk, name: str, function: Callable[[], Any]) -> tuple[Any, bool]:
    """What `function` gives, or one line for the user and True."""
    try:
        return function(), False
    except UserError as error:
        return public(" ".join(str(error).split()), desk.sessions.root), True
    except Exception as error:
        if isinstance(error, Gone) or not desk.sessions.is_open(name):
            return "this page was closed: load it again", True
        _LOG.exception("a request failed")
        return "something went wrong here; the server's log says what", True


def _or_note(outcome: tuple[Any, bool], count: int) -> list[Any]:
    values, failed = outcome
    return [_note(values, True), *[gr.skip()] * (count - 1)] if failed else values


def _reporter(session: Session, progress: gr.Progress, words: str) -> work.Report:
    def report(done: int, total: int | None) -> None:
        session.check_open()
        progress((done, total), desc=words, unit="pictures")

    return report


def _drawn(result: Result, threshold: float) -> list[Any]:
    files = result.draw(threshold)
    timeline = gr.update(value=str(files.timeline), visible=True)
    other = gr.update(value=str(files.other) if files.other else None, visible=files.other is not None)
    return [str(files.overlay), timeline, str(files.archive), other]


def _shown(result: Result, moment: float, threshold: float) -> list[Any]:
    own, *other = [str(path) for path in result.stills(moment, threshold)]
    numbers = f"<p>{html.escape(result.numbers(threshold))}</p>"
    if not other or result.other is None:
        return [own, numbers, None, None, ""]
    return [own, numbers, own, gr.update(value=other[0], label=result.other.name), _table(result.change(threshold))]


def _note(text: str, failed: bool) -> Any:
    role = "alert" if failed else "status"
    return gr.update(value=f"<p role='{role}' class='{role}'>{html.escape(text)}</p>", visible=True)


def _hidden() -> Any:
    return gr.update(value="", visible=False)


def _table(rows: list[list[str]]) -> str:
    head, *body = [[html.escape(cell) for cell in row] for row in rows]
    lines = ["<tr>" + "".join(f"<th scope='col'>{cell}</th>" for cell in head) + "</tr>"]
    lines += [
        f"<tr><th scope='row'>{row[0]}</th>" + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>" for row in body
    ]
    return f"<table>{''.join(lines)}</table>"
