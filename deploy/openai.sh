#!/usr/bin/env bash
# deploy/openai.sh [--replicas N] [--model PATH [--draft PATH]] [--model-name NAME] [--chat-template FILE] [--config FILE]
#                  [--listen HOST:PORT] [--mambad PROGRAM] [--smg PROGRAM] [--workers URL,URL...] [-- SMG-OPTION...]
#
# An endpoint that every client of OpenAI's HTTP interface can talk to, over one or several replicas of mambad: starts the
# replicas and, before them, the router SMG (Apache-2.0, from Python's package index), which speaks gRPC with them. On a bare
# Debian 12, as root or with sudo, it installs what is needed and builds mambad first. Ends, with all that it started, at
# SIGINT or SIGTERM: the router first, so that it takes no more calls, then the replicas, which finish what they have.
#
#   --replicas N          how many to start here. Default: 1. They share the processor: more than one a GPU, or one a machine
#                         without, is for trying out
#   --model PATH          serve this model directory or GGUF file. Default: deploy/models/stories/target, with
#                         deploy/models/stories/draft. A model without a chat template serves /v1/completions only
#   --draft PATH          with --model: a small model of the same vocabulary that drafts for it
#   --model-name NAME     what clients call the model. Default: the last part of its path, without .gguf
#   --chat-template FILE  a Jinja chat template to use instead of the model's own
#   --config FILE         settings of each replica (mambad.yaml); listen and metrics.listen are chosen here
#   --listen HOST:PORT    where to serve. Default: 127.0.0.1:8000. Beyond loopback say who may call: -- --api-key SECRET
#   --mambad PROGRAM      instead of building it
#   --smg PROGRAM         instead of fetching the router into build-quickstart/router
#   --workers URL,...     start no replicas here: the router asks these (grpc://HOST:PORT)
#   -- SMG-OPTION...      for the router (smg launch --help), as --policy cache_aware
#
# Logs: build-quickstart/openai/. The router's metrics: 127.0.0.1:29000, or -- --prometheus-port PORT.
set -euo pipefail
shopt -s inherit_errexit

root=$(cd "${BASH_SOURCE[0]%/*}/.." && pwd)
# shellcheck source-path=SCRIPTDIR source=setup.sh
. "$root/deploy/setup.sh"

usage() { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit "$1"; }

replicas=1 model='' draft='' name='' template='' config='' listen=127.0.0.1:8000 mambad='' smg='' workers='' router_options=()
while (($#)); do
  case $1 in
    --help) usage 0 ;;
    --) shift; router_options=("$@"); break ;;
    --replicas | --model | --draft | --config | --listen | --mambad | --smg | --workers)
      (($# > 1)) || usage 2 >&2
      printf -v "${1#--}" '%s' "$2"
      shift ;;
    --model-name) (($# > 1)) || usage 2 >&2; name=$2; shift ;;
    --chat-template) (($# > 1)) || usage 2 >&2; template=$2; shift ;;
    *) usage 2 >&2 ;;
  esac
  shift
done
[[ $replicas =~ ^[1-9][0-9]*$ ]] || fail "--replicas: expected a number from 1 on, found $replicas"
[[ $listen =~ ^.+:[0-9]+$ ]] || fail "--listen: expected HOST:PORT, found $listen"
[[ -z $workers || -z $model$draft$name$template$config ]] || fail "--workers are served as they are: it goes with none of the models' options"
if [[ -z $model && -z $workers ]]; then
  model=$root/deploy/models/stories/target draft=$root/deploy/models/stories/draft
fi
for path in "$model" "$draft" "$template" "$config" "$mambad" "$smg"; do
  [[ -z $path || -e $path ]] || fail "$path does not exist"
done

build=$root/build-quickstart
logs=$build/openai
mkdir -p "$logs"
processes=() router=''

# shellcheck disable=SC2317  # called by traps
stop() {
  local process
  for process in ${router:+"$router"} "${processes[@]}"; do
    kill -TERM "$process" 2>/dev/null || true
    [[ $process != "$router" ]] || wait "$process" 2>/dev/null || true
  done
  for process in "${processes[@]}"; do wait "$process" 2>/dev/null || true; done
  router='' processes=()
}
trap stop EXIT
trap 'exit 0' INT TERM

if [[ -z $mambad && -z $workers ]]; then
  say "Packages"
  install_packages "${daemon_packages[@]}"
  say "Build"
  build_programs "$root" "$build" mambad mambactl
  mambad=$build/bin/mambad
fi
if [[ -z $smg ]]; then
  say "Router"
  smg=$build/router/bin/smg
  if [[ ! -x $smg ]]; then
    install_packages python3 python3-venv
    python3 -m venv --clear "$build/router"
    "$build/router/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: "${router_packages[@]}" ||
      { rm -f "$smg"; fail "the router could not be fetched from Python's package index"; }
  fi
  "$smg" launch --help >/dev/null || fail "$smg does not run here"
fi

# A proxy for the world outside is none for this machine.
export no_proxy=127.0.0.1,localhost${no_proxy:+,$no_proxy}
if [[ -z $workers ]]; then
  say "Replicas"
  options=(--model "$model" --listen 127.0.0.1:0 --metrics 127.0.0.1:0)
  [[ -z $draft ]] || options+=(--draft "$draft")
  [[ -z $name ]] || options+=(--model-name "$name")
  [[ -z $template ]] || options+=(--chat-template "$template")
  [[ -z $config ]] || options+=(--config "$config")
  for ((i = 1; i <= replicas; ++i)); do
    : >"$logs/replica-$i.log"
    # Of its own session: what ends this script at the terminal must not end the replicas before the router.
    setsid "$mambad" "${options[@]}" >"$logs/replica-$i.log" 2>&1 </dev/null &
    processes+=("$!")
  done
  for ((i = 1; i <= replicas; ++i)); do
    address=$(wait_ready "${processes[i - 1]}" "$logs/replica-$i.log")
    workers+=${workers:+,}grpc://$address
    echo "replica $i: $address (process ${processes[i - 1]})"
  done
fi

say "Endpoint"
command -v curl >/dev/null || install_packages curl
IFS=, read -r -a urls <<<"$workers"
# Replicas are asked once a second how they are: so long calls may still be sent to one that is gone. One that refuses calls,
# as it does while it drains, gets none for two seconds, instead of a minute: a new one may long be in its place. All slots in
# use is no overload: calls wait at the replica, while the router would leave it out, as it was up to ten seconds ago, and turn
# calls away if another one then dies. The router's metrics are on loopback, instead of everywhere.
setsid "$smg" launch --host "${listen%:*}" --port "${listen##*:}" --worker-urls "${urls[@]}" \
  --prometheus-host 127.0.0.1 --health-check-interval-secs 1 --health-failure-threshold 1 --health-success-threshold 1 \
  --cb-timeout-duration-secs 2 --disable-worker-overload-protection "${router_options[@]}" >"$logs/router.log" 2>&1 </dev/null &
router=$!
url=http://$listen/v1
ask=(curl --silent --max-time 10 --header 'Content-Type: application/json')
for ((i = 0; i + 1 < ${#router_options[@]}; ++i)); do
  [[ ${router_options[i]} != --api-key ]] || ask+=(--header "Authorization: Bearer ${router_options[i + 1]}")
done
# It answers before it knows its replicas, and knows them before it has their tokenizer.
id='' code=''
for ((i = 0; ; ++i)); do
  kill -0 "$router" 2>/dev/null || { tail -n 20 "$logs/router.log" >&2; fail "the router did not start; its log is above"; }
  if [[ -z $id ]]; then
    id=$("${ask[@]}" "$url/models" | sed -n 's/.*"id" *: *"\([^"]*\)".*/\1/p' | head -1 || true)
  else
    code=$("${ask[@]}" --output /dev/null --write-out '%{http_code}' "$url/completions" \
      --data "{\"model\": \"$id\", \"prompt\": \"a\", \"max_tokens\": 1}" || true)
    [[ $code != 200 ]] || break
  fi
  ((i < 600)) || { tail -n 20 "$logs/router.log" >&2; fail "no answer comes through the router ($code); its log is above"; }
  sleep 0.1
done
echo "ready: $url, model $id"
cat <<END

    curl $url/completions -H 'Content-Type: application/json' -d '{"model": "$id", "prompt": "Once upon a time", "max_tokens": 60}'

    from openai import OpenAI
    OpenAI(base_url="$url", api_key="none").completions.create(model="$id", prompt="Once upon a time", max_tokens=60)

Ends with ctrl-C.
END
# Whichever ends first takes the others with it; signals are answered while waiting.
wait -n "$router" "${processes[@]}" || true
fail "the router or a replica has ended: see $logs"
