"""What the controls of the page do. A handler returns the new values of components; the others stay as they are."""

import functools
import html
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from avsmamba.utils import UserError, one_line
from avsmamba.web.layout import OTHER, Layout
from avsmamba.web.results import Result
from avsmamba.web.sessions import Session, SessionClosed, without_folders
from avsmamba.web.work import AppState, Report, analyse, compare, describe

_LOG = logging.getLogger(__name__)
_PROGRESS = gr.Progress()
_HIDDEN = gr.update(value="", visible=False)
Update = dict[Any, Any]
Handler = Callable[..., Update]


def _guarded(notice: str | None, **on_error: Any) -> Callable[[Handler], Handler]:
    """Decorate a handler whose first argument is the session: an error becomes one line on the page.

    Args:
        notice: the component for the line; with None the page stays as it is.
        on_error: values of other components after an error.
    """

    def decorate(handler: Handler) -> Handler:
        @functools.wraps(handler)
        def guarded(self: "Handlers", session: Session | None, *args: Any) -> Update:
            try:
                if session is None:
                    raise SessionClosed
                session.check_open()
                return handler(self, session, *args)
            except UserError as error:
                text = without_folders(one_line(error), self.app.root)
            except Exception:
                if session is None or session.closed:  # its files were deleted: any error may follow
                    text = "this page was closed: send the video again"
                else:
                    _LOG.exception("a request failed")
                    text = "something went wrong here; the server's log has the details"
            finally:
                if session is not None and session.closed:
                    shutil.rmtree(session.folder, ignore_errors=True)
            if notice is None:
                return gr.skip()
            values = {notice: _note(text, "alert"), **on_error}
            return {getattr(self.page, name): value for name, value in values.items()}

        return guarded

    return decorate


class Handlers:
    """Handlers of the page's events.

    Args:
        app: models and limits.
        page: components to update.
    """

    def __init__(self, app: AppState, page: Layout) -> None:
        self.app, self.page = app, page

    def on_upload(self, session: Session | None, path: str | None) -> Update:
        """Open the session if there is none, and show what the video is, or why it cannot be used."""
        if session is None or session.closed:
            session = self.app.open_session()
        return {self.page.session: session, **self._describe(session, path)}

    @_guarded("notice", go=gr.update(interactive=False))
    def _describe(self, session: Session, path: str | None) -> Update:
        session.show("video", path)
        note = _note(describe(self.app, Path(path)), "status") if path else _HIDDEN
        return {self.page.notice: note, self.page.go: gr.update(interactive=path is not None)}

    def on_example(self) -> Update:
        """Show the example clip in place of an upload."""
        try:
            return {self.page.video: str(self.app.example())}
        except Exception:
            text = "the example clip cannot be created"
            _LOG.exception(text)
            return {self.page.notice: _note(f"{text}; the server's log has the details", "alert")}

    @_guarded("notice")
    def on_run(
        self, session: Session, path: str, model: str, rate: float, threshold: float, progress: Any = _PROGRESS
    ) -> Update:
        """Run the model on the video."""
        report = _reporter(session, progress, "looking and listening")
        result = analyse(self.app, session, Path(path), model, rate, report)
        progress(None, desc="drawing")
        with session.drawing:
            files = self._files(result, threshold)
        moment, last = result.largest(threshold), result.times[-1]
        return {
            self.page.notice: _note(result.note, "status"),
            self.page.results: gr.update(visible=True),
            self.page.moment: gr.update(maximum=last or 1, step=1 / rate, value=moment, interactive=last > 0),
            self.page.pair: gr.update(visible=False),
            **files,
            **self._stills(result, moment, threshold),
        }

    @_guarded(None)
    def on_slider(self, session: Session, moment: float, threshold: float) -> Update:
        """Draw the still at the new moment and threshold."""
        return self._stills(session.result, moment, threshold) if session.result else gr.skip()

    @_guarded(None)
    def on_release(self, session: Session, threshold: float) -> Update:
        """Draw overlay, timeline and zip at the new threshold."""
        with session.drawing:
            return self._files(session.result, threshold) if session.result else gr.skip()

    @_guarded("warning")
    def on_sound(self, session: Session, path: str | None) -> Update:
        """Record the sound file that the tab shows."""
        session.show("sound", path)
        return {self.page.warning: _HIDDEN}

    @_guarded("warning")
    def on_compare(
        self, session: Session, kind: str, path: str | None, moment: float, threshold: float, progress: Any = _PROGRESS
    ) -> Update:
        """Run the model on the same frames with silence or another sound."""
        result = session.result
        if result is None:
            raise UserError("no result to compare with: run a video first")
        if kind == OTHER and not path:
            raise UserError("no file to take the sound from: drop one, or choose silence")
        report = _reporter(session, progress, "looking and listening to the other sound")
        compare(self.app, session, result, Path(path) if path and kind == OTHER else None, report)
        progress(None, desc="drawing")
        with session.drawing:
            files = self._files(result, threshold)
        pair = {self.page.warning: _HIDDEN, self.page.pair: gr.update(visible=True)}
        return {**pair, **files, **self._stills(result, moment, threshold)}

    def _files(self, result: Result, threshold: float) -> Update:
        files = result.draw(threshold)
        other = str(files.other) if files.other else None
        return {
            self.page.overlay: str(files.overlay),
            self.page.timeline: gr.update(value=str(files.timeline), visible=True),
            self.page.download: str(files.archive),
            self.page.swapped: gr.update(value=other, visible=other is not None),
        }

    def _stills(self, result: Result, moment: float, threshold: float) -> Update:
        own, *other = (str(path) for path in result.stills(moment, threshold))
        label = result.other.sound if result.other else None
        return {
            self.page.still: own,
            self.page.numbers: f"<p>{html.escape(result.summary(threshold))}</p>",
            self.page.own: own if other else None,
            self.page.other: gr.update(value=other[0], label=label) if other else None,
            self.page.change: _table(result.comparison(threshold)),
        }


def _reporter(session: Session, progress: gr.Progress, text: str) -> Report:
    def report(done: int, total: int | None) -> None:
        session.check_open()
        progress((done, total), desc=text, unit="pictures")

    return report


def _note(text: str, role: str) -> Update:
    return gr.update(value=f"<p role='{role}' class='{role}'>{html.escape(text)}</p>", visible=True)


def _table(rows: list[list[str]]) -> str:
    lines = []
    for i, row in enumerate(rows):
        first, *cells = map(html.escape, row)
        tag, scope = ("td", "row") if i else ("th scope='col'", "col")
        values = "".join(f"<{tag}>{cell}</{tag[:2]}>" for cell in cells)
        lines.append(f"<tr><th scope='{scope}'>{first}</th>{values}</tr>")
    return f"<table>{''.join(lines)}</table>" if rows else ""
