# Sourced by the scripts beside it: strict mode, the root of the repository as working directory,
# sections with a heading and a duration, and the system packages that a section needs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null

export PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
jobs=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
passed=0 failed=0 rc=0 summary=""

# section TITLE COMMAND...: runs the command, counts it, and goes on after a failure, so that one run
# shows everything that is wrong. Call it plainly: behind `||` or `if` bash would ignore `set -e`
# inside the command.
section() {
  local title=$1 start=$SECONDS word
  shift
  printf '\n=== %s\n' "$title"
  set +e
  (set -e; "$@")
  rc=$?
  set -e
  case $rc in
    0) word=passed passed=$((passed + 1)) ;;
    *) word=FAILED failed=$((failed + 1)) ;;
  esac
  summary+=$(printf '%5d s  %s  %s' $((SECONDS - start)) "$word" "$title")$'\n'
  printf '=== %s in %d s: %s\n' "$word" $((SECONDS - start)) "$title"
}

# The same for what all later sections need: a failure ends the run.
required() {
  section "$@"
  [ "$rc" -eq 0 ] || finish
}

# The durations of all sections, then the count, which is the last line.
finish() {
  printf '\n=== Sections, %d s in all\n%s\n' "$SECONDS" "$summary"
  printf '%d passed, %d failed\n' "$passed" "$failed"
  exit $((failed > 0))
}

# need COMMAND: says what is missing instead of a bare "command not found".
need() {
  command -v "$1" >/dev/null || { echo "missing: $1${2:+ (Debian: $2)}" >&2; return 1; }
}

# Installs the Debian packages that are missing, where that is possible (root, apt-get).
debian_packages() {
  local missing=() package
  command -v dpkg-query >/dev/null || { echo "no Debian packages here"; return 0; }
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  if [ ${#missing[@]} -eq 0 ]; then echo "all there: $*"; return 0; fi
  echo "missing: ${missing[*]}"
  if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "not root: install them by hand; what needs them will say so"
    return 0
  fi
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# preset NAME: configures, builds and tests one CMake preset.
preset() {
  need cmake
  if command -v ninja >/dev/null; then export CMAKE_GENERATOR=Ninja; fi
  cmake --preset "$1"
  cmake --build --preset "$1" --parallel "$jobs"
  ctest --preset "$1" --parallel "$jobs"
}

# fuzz SECONDS: builds every fuzz target and runs it for so long.
fuzz() {
  need cmake
  if command -v ninja >/dev/null; then export CMAKE_GENERATOR=Ninja; fi
  cmake --preset fuzz -DPAGEDKV_FUZZ_SECONDS="$1"
  cmake --build --preset fuzz --parallel "$jobs"
  ctest --preset fuzz --parallel "$jobs" --verbose --timeout $(($1 + 300))
}
