#!/usr/bin/env bash
# Trains recipes/fsdd/single.yaml six times, each time without one speaker, and scores that speaker.
# Usage: recipes/fsdd/leave_one_speaker_out.sh [FOLDER for the runs] [key=value …]
set -euo pipefail
runs=${1:-runs/leave_one_speaker_out}
shift || true
for speaker in george jackson lucas nicolas theo yweweler; do
  speechseq train recipes/fsdd/single.yaml data.held_out_speaker="$speaker" "$@" -o "$runs/$speaker"
  speechseq evaluate "$runs/$speaker" --split test -o "$runs/$speaker.json" | sed -n "2s/^/$speaker: /p"
done
