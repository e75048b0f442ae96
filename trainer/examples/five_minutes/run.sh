#!/usr/bin/env bash
# trainer/examples/five_minutes/run.sh FOLDER [TEXT-FILE]
#
# From a text file to a hybrid of attention and Mamba with a draft, ready to be served: about five minutes on two CPU cores.
# All of it lands in FOLDER, with the settings of every step beside it. Without a text file the text is what this repository
# says about itself. A run that was stopped goes on where it was.
set -euo pipefail

here=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
root=$(cd "$here/../../.." && pwd)
trainer=${TRAINER:-$root/build/bin/trainer}

if (($# < 1 || $# > 2)) || [[ $1 == --help ]]; then
  sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
  exit 2
fi
text=${2:+$(realpath "$2")}
mkdir -p "$1"
cd "$1"
cp "$here"/*.yaml .

# Text to learn from, and every twentieth line to judge by, in documents of some lines.
if [[ ! -s held_out.txt ]]; then
  if [[ -n $text ]]; then cat "$text"; else
    cat "$root"/README.md "$root"/{engine,kernels,trainer}/README.md \
      "$root"/{engine,kernels,server,trainer}/*.h "$root"/{engine,trainer}/*/*.h
  fi | awk '
    NR % 20 == 0 { print > "held_out.txt"; if (++held % 20 == 0) print "<|endoftext|>" > "held_out.txt"; next }
    { print > "train.txt"; if (++kept % 100 == 0) print "<|endoftext|>" > "train.txt" }'
fi

"$trainer" tokenizer --config tokenizer.yaml
"$trainer" pretrain --config pretrain.yaml
"$trainer" initialize --config initialize.yaml
"$trainer" align --config align.yaml
"$trainer" distill --config distill.yaml
"$trainer" draft --config draft.yaml
"$trainer" evaluate --config evaluate.yaml

printf '\nserve it: mambad --model %s/distilled/model --draft %s/draft/model\n' "$PWD" "$PWD"
