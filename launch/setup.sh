#!/usr/bin/env bash
# Installs what building, testing and running Lockstep needs and this machine lacks; nothing twice.
#   Debian packages: cmake/apt-packages.txt, through apt-get (sudo when not root)
#   Python packages: cmake/python-requirements.txt, into $LOCKSTEP_DEPS_DIR/venv (default: .deps/venv)
#   launch/setup.sh --optional   also those that only some tests need ("?" in the list); it goes on without them
# Several clones may share one LOCKSTEP_DEPS_DIR; keep it set for cmake as well. Run it as often as you like:
# when nothing is missing it takes well under a second and touches no network.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
deps=${LOCKSTEP_DEPS_DIR:-$root/.deps}
apt_list=$root/cmake/apt-packages.txt
requirements=$root/cmake/python-requirements.txt

# Paths below the project are told without it.
say() { printf '[setup] %s\n' "${*//$root\//}"; }
fail() { printf '[setup] error: %s\n' "${*//$root\//}" >&2; exit 1; }

as_root() {
  if [ "$(id -u)" = 0 ]; then
    env DEBIAN_FRONTEND=noninteractive "$@"
  elif command -v sudo >/dev/null; then
    sudo env DEBIAN_FRONTEND=noninteractive "$@"
  else
    return 77
  fi
}

# Runs a command with its output in a log file; shows the log's end only when the command fails.
logged() {
  local log=$1
  shift
  "$@" >>"$log" 2>&1 && return 0
  tail -n 25 "$log" >&2
  return 1
}

apt_install() {
  as_root apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=300 "$@"
}

# What some tests need and nothing else does: no reason to stop.
install_optional() {
  local log=$deps/apt.log
  say "Debian packages: installing $*, which only some tests need (log: $log)"
  if command -v apt-get >/dev/null && logged "$log" as_root apt-get update -o DPkg::Lock::Timeout=300 2>/dev/null &&
    logged "$log" apt_install "$@" 2>/dev/null; then
    return 0
  fi
  say "note: $* can't be installed here; the tests that need them will be skipped"
}

install_debian_packages() {
  local line name version installed missing=() wanted=() others=() optional=()
  installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' 2>/dev/null || true)
  while IFS= read -r line; do
    name=${line#\?}
    grep -qxF "installed ${name%%=*}" <<<"$installed" && continue
    case $line in
      \?*) [ "$with_optional" = no ] || optional+=("${name%%=*}") ;;
      *) missing+=("$line") ;;
    esac
  done < <(grep -v -e '^#' -e '^[[:space:]]*$' "$apt_list")
  [ ${#optional[@]} = 0 ] || install_optional "${optional[@]}"
  if [ ${#missing[@]} = 0 ]; then
    say "Debian packages: all there"
    return 0
  fi

  command -v apt-get >/dev/null ||
    fail "no apt-get here; install what corresponds to: ${missing[*]%%=*} (list: $apt_list)"
  [ "$(id -u)" = 0 ] || command -v sudo >/dev/null ||
    fail "not root and no sudo; ask for: apt-get install ${missing[*]%%=*}"
  local log=$deps/apt.log
  say "Debian packages: installing ${missing[*]%%=*} (log: $log)"
  logged "$log" as_root apt-get update -o DPkg::Lock::Timeout=300 ||
    fail "apt-get update failed; is the network up?"
  for line in "${missing[@]}"; do
    name=${line%%=*}
    version=${line#*=}
    if apt-cache madison "$name" | awk -F'|' '{gsub(/ /, "", $2); print $2}' | grep -qxF "$version"; then
      wanted+=("$name=$version")
    else
      wanted+=("$name")
      others+=("$name")
    fi
  done
  if ! logged "$log" apt_install "${wanted[@]}" 2>/dev/null; then
    # A pinned version can contradict one that is installed already.
    others=("${missing[@]%%=*}")
    logged "$log" apt_install "${missing[@]%%=*}" || fail "apt-get install failed; see $log"
  fi
  for name in "${others[@]}"; do
    say "note: $name $(dpkg-query -W -f '${Version}' "$name"), not the version in cmake/apt-packages.txt"
  done
}

install_python_packages() {
  local venv=$deps/venv python=/usr/bin/python3
  local stamp=$venv/.requirements.sha256 log=$deps/pip.log want
  want=$(sha256sum <"$requirements")
  # A virtual environment whose interpreter has gone is of no use.
  if [ -e "$venv" ] && ! "$venv/bin/python" -c '' 2>/dev/null; then
    say "Python packages: $venv has no working interpreter; making it anew"
    rm -rf "$venv"
  fi
  if [ "$(cat "$stamp" 2>/dev/null || true)" = "$want" ]; then
    say "Python packages: all there ($venv)"
    return 0
  fi
  # One that was interrupted while it was made has an interpreter, but no pip.
  if [ -e "$venv" ] && ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    say "Python packages: $venv has no working pip; making it anew"
    rm -rf "$venv"
  fi
  [ -x "$python" ] || python=$(command -v python3) || fail "no python3"
  say "Python packages: installing cmake/python-requirements.txt into $venv (torch is large; log: $log)"
  [ -e "$venv" ] || logged "$log" "$python" -m venv "$venv" ||
    fail "python3 -m venv failed; see $log"
  logged "$log" "$venv/bin/python" -m pip install --no-compile --disable-pip-version-check --no-input \
    --progress-bar off -r "$requirements" || fail "pip install failed; see $log"
  printf '%s\n' "$want" >"$stamp"
}

with_optional=no
case ${1:-} in
  '') ;;
  --optional) with_optional=yes ;;
  *) fail "unknown argument $1; expected none, or --optional" ;;
esac
mkdir -p "$deps"
exec 9>"$deps/.setup.lock"
if ! flock -n 9; then
  say "another set-up works in $deps; waiting for it"
  flock 9
fi
install_debian_packages
install_python_packages
