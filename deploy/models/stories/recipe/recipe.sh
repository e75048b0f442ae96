#!/usr/bin/env bash
# recipe.sh FOLDER: makes target/ and draft/ again. Needs trainer on the path, a GPU (or hours), and in FOLDER
#   tinystories_train.txt.gz, tinystories_valid.txt    stories, parted by lines <|endoftext|>
# A command that was stopped goes on where it was when the script is started again.
set -euo pipefail

recipe=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
cd "${1:?the folder to work in}"

trainer tokenizer --config "$recipe/tokenizer.yaml"
trainer pretrain --config "$recipe/pretrain.yaml"
trainer generate --config "$recipe/generate.yaml"
trainer initialize --config "$recipe/initialize_all.yaml"
trainer align --config "$recipe/align.yaml"
trainer layers --config "$recipe/layers.yaml"  # order/report.md: initialize_half.yaml has its outcome
trainer initialize --config "$recipe/initialize_half.yaml"
trainer distill --config "$recipe/distill.yaml"
trainer distill --config "$recipe/distill_all.yaml"
trainer generate --config "$recipe/generate_draft.yaml"
trainer draft --config "$recipe/draft.yaml"
trainer evaluate --config "$recipe/evaluate.yaml"
