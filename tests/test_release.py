"""tools/release.sh in a repository of its own; the images and GitHub's workflow against the Makefile."""

import os
import re
import shutil
import subprocess

import pytest
import yaml

from tests import ROOT

WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
DOCKERFILES = sorted((ROOT / "docker").glob("Dockerfile.*"))
MAKEFILE = (ROOT / "Makefile").read_text()
CHANGELOG = (
    "# Changelog\n\n## [Unreleased]\n\n## [1.2.0] - 2026-11-28\n\n### Added\n\n- All.\n\n## [1.1.0] - 2025-01-01\n"
)
# Stands for make and twine: writes down its arguments; `make wheel` leaves a wheel.
FAKE = """#!/bin/sh
echo "$0 $*" >> calls
if [ "$1" = wheel ]; then mkdir -p dist; touch dist/avsmamba-1.2.0-cp310.whl; fi
"""


@pytest.fixture
def repository(tmp_path):
    """A repository on main that can be released as 1.2.0; `fake` is outside of it."""
    fake, folder = tmp_path / "fake", tmp_path / "repository"
    fake.write_text(FAKE)
    fake.chmod(0o755)
    (folder / "tools").mkdir(parents=True)
    (folder / "avsmamba").mkdir()
    shutil.copy(ROOT / "tools" / "release.sh", folder / "tools")
    (folder / "avsmamba" / "version.py").write_text('__version__ = "1.2.0"\n')
    (folder / "CHANGELOG.md").write_text(CHANGELOG)
    (folder / ".gitignore").write_text("dist/\ncalls\n")
    git(folder, "init", "-q", "-b", "main")
    commit(folder)
    return folder


def git(folder, *words):
    who = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *who, *words], cwd=folder, capture_output=True, text=True, check=True).stdout


def commit(folder):
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "x")


def release(folder, *words):
    fake = str(folder.parent / "fake")
    environment = {**os.environ, "MAKE": fake, "TWINE": fake}
    environment |= {f"GIT_{role}_{key}": "a@b.c" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
    command = ["bash", "tools/release.sh", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)


def test_a_dry_run_builds_and_tags_nothing(repository):
    done = release(repository, "1.2.0")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    lines = done.stdout.splitlines()
    assert len([line for line in lines if line.startswith("ok ")]) == 7
    assert [line.split("/")[-1] for line in lines if line.startswith("+ ")] == [
        "fake wheel",
        "+ check_wheels",
        "+ git tag -a v1.2.0 -m avsmamba 1.2.0",
    ]
    assert (repository / "calls").read_text().count("\n") == 1  # twine --version
    assert git(repository, "tag") == "" and not (repository / "dist").exists()


def test_a_run_builds_checks_and_tags(repository):
    done = release(repository, "1.2.0", "--run")
    assert done.returncode == 0, done.stderr
    calls = [line.partition("fake ")[2] for line in (repository / "calls").read_text().splitlines()]
    assert calls == ["--version", "wheel", "check --strict dist/avsmamba-1.2.0-cp310.whl"]
    assert git(repository, "tag") == "v1.2.0\n" and git(repository, "cat-file", "-t", "v1.2.0") == "tag\n"
    assert "git push origin v1.2.0" in done.stdout
    again = release(repository, "1.2.0")
    assert again.returncode == 1 and "fault  tags: the last tag is v1.2.0" in again.stdout


def test_a_failing_build_is_not_tagged(repository):
    (repository.parent / "fake").write_text(FAKE.replace("dist/avsmamba-1.2.0", "dist/avsmamba-1.1.0"))
    done = release(repository, "1.2.0", "--run")
    assert done.returncode == 1 and "make wheel left no dist/avsmamba-1.2.0-*.whl" in done.stderr
    (repository.parent / "fake").write_text(FAKE + 'test "$1" != check\n')
    assert release(repository, "1.2.0", "--run").returncode == 1
    assert git(repository, "tag") == ""


@pytest.mark.parametrize(
    ("version", "change", "fault"),
    [
        ("1.2", "", "version: expected X.Y.Z or X.Y.ZrcN, got '1.2'"),
        ("1.02.0", "", "version: expected"),
        ("1.3.0", "", "package: avsmamba/version.py has '1.2.0', expected '1.3.0'"),
        ("1.3.0", "", "changelog: CHANGELOG.md: expected one section '## [1.3.0] - YYYY-MM-DD'"),
        ("1.1.0", "", "changelog: CHANGELOG.md: expected one section"),  # without items
        ("1.2.0", "git tag v1.10.0", "tags: the last tag is v1.10.0"),
        ("1.2.0rc1", "git tag v1.2.0", "tags: the last tag is v1.2.0"),
        ("1.2.0", "git switch -q -c other", "branch: on 'other', expected main"),
        ("1.2.0", "echo x >> CHANGELOG.md", "tree: 1 files are not committed, the first:  M CHANGELOG.md"),
        ("1.2.0", "touch new.py", "tree: 1 files are not committed, the first: ?? new.py"),
        ("1.2.0", "rm ../fake", "twine: "),
    ],
)
def test_faults(repository, version, change, fault):
    subprocess.run(["bash", "-c", change], cwd=repository, check=True)
    for words in ([version], [version, "--run"]):
        done = release(repository, *words)
        assert done.returncode == 1 and f"fault  {fault}" in done.stdout, done.stdout
        assert "nothing was built or tagged" in done.stderr and not (repository / "dist").exists()
    assert "v" + version not in git(repository, "tag").split() or "git tag" in change


def test_a_release_follows_its_candidate(repository):
    git(repository, "tag", "v1.2.0rc2")
    assert "ok     tags" in release(repository, "1.2.0").stdout
    assert "fault  tags: the last tag is v1.2.0rc2" in release(repository, "1.2.0rc1").stdout
    assert "ok     tags" in release(repository, "1.2.0rc10").stdout


@pytest.mark.parametrize("words", [[], ["--run"], ["1.2.0", "--tag"], ["1.2.0", "--run", "x"]])
def test_usage(repository, words):
    done = release(repository, *words)
    assert done.returncode == 2 and done.stderr.startswith("usage: ") and done.stdout == ""


def commands():
    """What the workflow and the images run."""
    jobs = yaml.safe_load(WORKFLOW.read_text())["jobs"]
    found = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    for file in DOCKERFILES:
        text = file.read_text().replace("\\\n", " ")
        found += [line.removeprefix("RUN ") for line in text.splitlines() if line.startswith("RUN ")]
    return found


def test_workflow_and_images_use_the_makefile():
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, flags=re.M))
    used = [
        found for command in commands() for found in re.findall(r"(?:^|&& )make ([a-z-]+)((?: [A-Z]+=\S+)*)", command)
    ]
    assert {name for name, _ in used} == {"setup", "lint", "test", "test-slow", "test-wheel", "wheel-cpu", "wheel-cuda"}
    assert {name for name, _ in used} <= targets
    for _, options in used:
        for name in re.findall(r"([A-Z]+)=", options):
            assert re.search(rf"^{name} \?=", MAKEFILE, flags=re.M), name


def test_one_torch_for_all():
    versions = re.search(r"^TORCH \?= torch==(\S+) torchvision==(\S+)$", MAKEFILE, flags=re.M).groups()
    for file in (WORKFLOW, *DOCKERFILES):
        assert re.findall(r"torch==([\d.]+)\S* torchvision==([\d.]+)", file.read_text()) == [versions], file
    assert len(DOCKERFILES) == 2


def test_the_images_copy_what_a_wheel_needs():
    left_out = {line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"}
    assert not left_out & {
        "Makefile",
        "pyproject.toml",
        "setup.py",
        "README.md",
        "LICENSE",
        "avsmamba",
        "csrc",
        "models",
    }
    assert {".git", "data", "work_dirs", ".venv*"} <= left_out
