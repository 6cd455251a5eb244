#!/usr/bin/env bash
# Check that a version can be released, build the wheels and tag it: tools/release.sh VERSION [--run]
# Without --run nothing is built or tagged: the checks run, and the commands are printed. Nothing is pushed or uploaded.
# VERSION is X.Y.Z or X.Y.ZrcN, already written in avsmamba/version.py and as a section of CHANGELOG.md.
set -euo pipefail
cd "$(dirname "$0")/.."

MAKE=${MAKE:-make}
TWINE=${TWINE:-.venv/bin/python -m twine}

usage() {
  echo "usage: tools/release.sh VERSION [--run]" >&2
  exit 2
}

version=${1:-} run=${2:-}
[[ $# -ge 1 && $# -le 2 && $version != -* ]] || usage
[[ -z $run || $run == --run ]] || usage

faults=0
check() { # check NAME COMMAND...: the fault is what the command prints
  local name=$1 fault
  shift
  if fault=$("$@"); then echo "ok     $name"; else
    echo "fault  $name: $fault"
    faults=$((faults + 1))
  fi
}

well_formed() {
  [[ $version =~ ^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)(rc[1-9][0-9]*)?$ ]] ||
    { echo "expected X.Y.Z or X.Y.ZrcN, got '$version'" && false; }
}
in_the_package() {
  local found
  found=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' avsmamba/version.py)
  [[ $found == "$version" ]] || { echo "avsmamba/version.py has '$found', expected '$version'" && false; }
}
is_newer() { # of versions by sort -V a release candidate comes before its release, as by `~` in Debian's
  local newest
  newest=$(git tag --list 'v[0-9]*' | sed 's/^v//; s/rc/~rc/' | sort -V | tail -1)
  [[ -z $newest || ($newest != "${version/rc/\~rc}" &&
    $(printf '%s\n' "$newest" "${version/rc/\~rc}" | sort -V | tail -1) == "${version/rc/\~rc}") ]] ||
    { echo "the last tag is v${newest/\~rc/rc}" && false; }
}
in_the_changelog() {
  awk -v head="## [$version] - " '
    /^## / { inside = (index($0, head) == 1 && $0 ~ /- [0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]$/); found += inside }
    inside && /^- / { items++ }
    END { exit !(found == 1 && items > 0) }' CHANGELOG.md ||
    { echo "CHANGELOG.md: expected one section '## [$version] - YYYY-MM-DD' with items" && false; }
}
on_main() {
  [[ $(git branch --show-current) == main ]] || { echo "on '$(git branch --show-current)', expected main" && false; }
}
is_clean() {
  local changed
  changed=$(git status --porcelain)
  [[ -z $changed ]] || { echo "$(wc -l <<<"$changed") files are not committed, the first: ${changed%%$'\n'*}" && false; }
}
has_twine() {
  $TWINE --version >/dev/null 2>&1 || { echo "'$TWINE' does not run: pip install twine, or set TWINE" && false; }
}

check "version" well_formed
check "package" in_the_package
check "tags" is_newer
check "changelog" in_the_changelog
check "branch" on_main
check "tree" is_clean
check "twine" has_twine
if ((faults)); then
  echo "error: $faults faults; nothing was built or tagged" >&2
  exit 1
fi

step() {
  echo "+ $*"
  [[ -z $run ]] || "$@"
}
check_wheels() { # that each wheel of this version is there, and its metadata is one that PyPI takes
  local wheels=(dist/avsmamba-"$version"-*.whl dist/avsmamba-"$version"+*.whl) found=()
  for wheel in "${wheels[@]}"; do [[ ! -f $wheel ]] || found+=("$wheel"); done
  ((${#found[@]})) || { echo "error: make wheel left no dist/avsmamba-$version-*.whl" >&2 && exit 1; }
  $TWINE check --strict "${found[@]}"
}

step "$MAKE" wheel
step check_wheels
step git tag -a "v$version" -m "avsmamba $version"
if [[ -z $run ]]; then
  echo "dry run: nothing was built or tagged; --run does"
else
  echo "tagged. To publish it:"
  echo "  git push origin v$version"
  echo "  $TWINE upload dist/avsmamba-$version-*.whl   # PyPI takes no +cu versions: attach that wheel to the release"
fi
