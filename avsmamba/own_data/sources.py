"""Find out what kind of labels a file or folder holds, and read them."""

import tempfile
import zipfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from avsmamba.datasets.readers import attempt
from avsmamba.own_data.coco import read_coco
from avsmamba.own_data.cvat import read_cvat
from avsmamba.own_data.label_studio import read_label_studio
from avsmamba.own_data.labelled import LabelledVideo, read_json_file
from avsmamba.own_data.pictures import LABEL_MAP, read_mask_folders, read_segmentation_mask
from avsmamba.utils import UserError, one_line


@dataclass(frozen=True)
class Reader:
    """What all kinds of labels are read with.

    Attributes:
        videos: folder with the videos, or the one video.
        stack: removes unpacked archives when it ends.
        classes: names by class index of PNG masks; None: they are binary.
        by_frame: whether PNG masks are numbered by frame, not second.
        rate: pictures per second of folders of pictures; None if unknown.
    """

    videos: Path
    stack: ExitStack
    classes: Sequence[str] | None = None
    by_frame: bool = False
    rate: float | None = None

    def read(self, source: Path, faults: list[str], name: str | None = None) -> list[LabelledVideo]:
        """Return the videos of a source.

        Args:
            source: JSON of COCO or Label Studio, XML of CVAT, a zip of one of these, a folder of XML and zip files, of
                "Segmentation mask 1.1", or of folders of PNG masks.
            faults: gets a line for each video that does not fit.
            name: of the one video of a file that does not name it; default: the file's.

        Raises:
            UserError: if the source is missing or of another kind.
        """
        if source.is_dir():
            return self._read_folder(source, faults)
        if not source.is_file():
            raise UserError(f"{source}: no such file or folder; expected labels of videos")
        if zipfile.is_zipfile(source):
            return self._read_folder(self._unpacked(source), faults)
        if source.suffix.lower() == ".xml":
            return [read_cvat(source, self.videos, self.rate)]
        if source.suffix.lower() != ".json":
            raise UserError(f"{source}: expected json, xml, zip, or a folder of masks")
        content = read_json_file(source)
        try:
            if isinstance(content, list):
                return read_label_studio(source, content, self.videos, faults)
            if isinstance(content, dict):
                return read_coco(source, content, name or source.stem, self.videos, self.rate, faults)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            what = f"it lacks {error}" if isinstance(error, KeyError) else one_line(error)
            raise UserError(f"{source}: cannot be read as COCO or Label Studio: {what}") from None
        raise UserError(f"{source}: expected a mapping (COCO) or a list of tasks (Label Studio)")

    def _read_folder(self, folder: Path, faults: list[str]) -> list[LabelledVideo]:
        if (folder / LABEL_MAP).is_file():
            return [read_segmentation_mask(folder, self.videos, self.rate)]
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".xml", ".zip"))
        if not files:
            files = sorted((folder / "annotations").glob("*.json"))
        if files:
            found = [attempt(faults, self.read, file, faults, folder.name) for file in files]
            return [video for videos in found for video in videos or ()]
        return read_mask_folders(folder, self.videos, self.classes, self.by_frame, self.rate, faults)

    def _unpacked(self, archive: Path) -> Path:
        """Unpack an archive to a temporary folder of its name."""
        folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="avsmamba-import-"))) / archive.stem
        try:
            with zipfile.ZipFile(archive) as file:
                file.extractall(folder)
        except (OSError, zipfile.BadZipFile, RuntimeError) as error:
            raise UserError(f"{archive}: cannot be unpacked: {one_line(error)}") from None
        return folder
