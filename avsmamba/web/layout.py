"""Components of the page."""

from typing import Any

import gradio as gr

from avsmamba.sounding_shapes.sample import SECONDS
from avsmamba.web.work import AppState

SILENCE, OTHER = "silence", "another sound"
LIFETIME = 24 * 3600  # s, of files and sessions whose tab never reported that it was closed
_RATES = [("1 every 2 seconds", 0.5), ("1 (as trained)", 1.0), ("2", 2.0), ("4", 4.0)]
_SOUND_FILES = ["audio", "video", ".mkv", ".avi", ".mov", ".flac", ".ogg", ".opus"]
_CAMERA = {"video": {"width": {"ideal": 1280}, "height": {"ideal": 720}}}  # pixels


def theme() -> gr.themes.ThemeClass:
    """Return the theme; system fonts, so that nothing is fetched from other servers."""
    fonts = ["ui-sans-serif", "sans-serif"]
    return gr.themes.Soft(
        primary_hue="teal", neutral_hue="slate", font=fonts, font_mono=["ui-monospace", "monospace"], radius_size="sm"
    )


class Layout:
    """Components of the page, created inside `gr.Blocks`."""

    def __init__(self, app: AppState) -> None:
        self.session = gr.State(time_to_live=LIFETIME, delete_callback=lambda session: session and session.close())
        gr.HTML(_heading(app), padding=False)
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                self.video = gr.Video(
                    label="Video",
                    sources=["upload", "webcam"],
                    webcam_options=gr.WebcamOptions(mirror=False, constraints=_CAMERA),
                    include_audio=True,
                    elem_id="video",
                    buttons=[],
                )
                self.example = gr.Button(
                    "Try the example clip",
                    size="sm",
                    elem_id="example",
                    visible=app.max_seconds >= SECONDS,
                )
                self.notice = gr.HTML(elem_id="notice", visible=False, padding=False)
                with gr.Row():
                    names = list(app.models)
                    self.model = gr.Dropdown(names, value=names[0], label="Model", min_width=140)
                    self.rate = gr.Dropdown(_RATES, value=1.0, label="Pictures a second", min_width=140)
                self.go = gr.Button("Find what sounds", variant="primary", elem_id="go", interactive=False)
            with gr.Column(scale=3, min_width=320):
                self.overlay = _video("overlay", "What sounds, outlined", buttons=["download"])
                self.timeline = _image("timeline", "Timeline", show_label=False, visible=False, buttons=["fullscreen"])
        with gr.Column(visible=False, elem_id="results") as self.results:
            self._draw_results()

    def _draw_results(self) -> None:
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                self.threshold = gr.Slider(
                    0.02,
                    0.98,
                    value=0.5,
                    step=0.02,
                    label="Threshold",
                    info="How sure the model must be. Moving it does not run the model again.",
                    elem_id="threshold",
                    buttons=[],
                )
                self.moment = gr.Slider(0, 1, value=0, step=1, label="Moment (s)", elem_id="moment", buttons=[])
                self.numbers = gr.HTML(elem_id="numbers", padding=False)
                self.download = gr.DownloadButton("Download everything (zip)", elem_id="download")
            with gr.Column(scale=3, min_width=320):
                self.still = _image("still", "At this moment", buttons=["fullscreen"])
        gr.HTML("<h2>And if it sounded different?</h2>", elem_classes="section", padding=False)
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                self.sound = gr.Radio([SILENCE, OTHER], value=SILENCE, label="The same pictures with", elem_id="sound")
                self.file = gr.File(
                    label="A video or a sound file", file_types=_SOUND_FILES, visible=False, height=130, elem_id="file"
                )
                self.swap = gr.Button("Compare", elem_id="swap")
                self.warning = gr.HTML(elem_id="warning", visible=False, padding=False)
                self.change = gr.HTML(elem_id="change", padding=False)
            with gr.Column(scale=3, min_width=320):
                with gr.Row(visible=False) as self.pair:
                    self.own = _image("own", "own sound", buttons=[], min_width=150)
                    self.other = _image("other", "the other", buttons=[], min_width=150)
                self.swapped = _video("swapped", "Outlined by that sound", buttons=[], visible=False)


def _image(name: str, label: str, **options: Any) -> gr.Image:
    return gr.Image(label=label, elem_id=name, interactive=False, **options)


def _video(name: str, label: str, **options: Any) -> gr.Video:
    return gr.Video(label=label, elem_id=name, interactive=False, **options)


def _heading(app: AppState) -> str:
    return (
        "<header><h1>What sounds in this video?</h1>"
        "<p>Drop a video or record one: whatever makes its sound is outlined, moment by moment. "
        "The bundled model knows moving shapes and their timbres, not the world.</p>"
        f"<p class='faint'>Up to {app.max_seconds:g} s and {app.max_mb:g} MB. "
        "Your files are removed when you close this page.</p></header>"
    )
