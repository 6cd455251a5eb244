"""Fifty broken files: a clear line that names the file, or what can be decoded; no crash, no hang, no stray file."""

import json
import os
import subprocess
import sys

from tests import ROOT
from tests.video.broken import write_broken


def test_fifty_broken_files(tmp_path):
    cases = write_broken(tmp_path / "files", seed=0)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "files").rglob("*")}
    out = tmp_path / "out"
    out.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "tests.video.read_files", str(out), *(str(case.path) for case in cases)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and not done.stderr, (lines[-1], done.stderr)  # FFmpeg prints nothing either
    results = {line["path"]: line for line in lines if "path" in line}
    for case in cases:
        result = results[str(case.path)]
        error = result.get("error")
        assert not result["left"] and result["seconds"] < 30, result
        assert case.expected == "either" or (error is None) == (case.expected == "valid"), (case, result)
        if error is not None:
            assert error.startswith(str(case.path)) and "\n" not in error and len(error) < 400, result
        for warning in result["warnings"]:
            assert warning.startswith(str(case.path)) and "\n" not in warning, result
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "files").rglob("*")}
    damaged = [results[str(case.path)] for case in cases if case.expected == "either"]
    assert sum("pictures" in result for result in damaged) >= 8  # much of what is damaged is still read
    assert sum(bool(result["warnings"]) for result in damaged) >= 4
