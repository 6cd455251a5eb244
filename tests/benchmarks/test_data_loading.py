"""The script of data loading runs, and its ratios and cores follow from its times."""

import pytest

from tests.benchmarks.test_scripts import run


@pytest.mark.timeout(900)
def test_data_loading(tmp_path):
    text, found = run("data_loading.py", tmp_path, "--size", 64, "--clips", 2, "--repeats", 1, "--step-size", 32)
    rows = found["rows"]
    base = rows["files, PNG"]
    assert len(rows) == 4 and text.count("\n| ") == 6
    assert found["clips_per_second"] == pytest.approx(989e3 * 0.3 / 3 / 2480.2)
    for case, row in rows.items():
        for stage, ms in row["ms"].items():
            assert row["times"][stage] == pytest.approx(base["ms"][stage]["median"] / ms["median"])
            assert row["cores"][stage] == pytest.approx(found["clips_per_second"] * ms["median"] / 1e3)
        assert ("trained" in row["ms"]) == ("features" not in case)
    assert rows["shards, JPEG of quality 95"]["bytes"] < base["bytes"] < rows["shards, features in float16"]["bytes"]
    steps = found["steps"]
    assert steps["times"] == pytest.approx(steps["ms"]["frames"]["median"] / steps["ms"]["features"]["median"])
