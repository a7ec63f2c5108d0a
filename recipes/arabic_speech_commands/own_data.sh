#!/bin/sh
# How many clips a class does one need? 10, 30 and 100 of each of the forty words, from scratch and
# from the bundled commands-en, all with about 1,500 steps; then the forecast. The network from scratch is
# an LSTM, as what README.md says was measured with.
set -e
recipe=recipes/arabic_speech_commands/commands.yaml
for plan in "10 120 12" "30 40 4" "100 12 2"; do
  set -- $plan
  settings="data.clips_per_class=$1 training.epochs=$2 training.validate_every=$3 training.consistency=0"
  scratch="training.learning_rate=0.002 model.cell=lstm model.hidden=128 model.conv_blocks=0"
  speechseq train $recipe -o "runs/own_data/scratch_$1" $settings $scratch "training.base=''"
  speechseq train $recipe -o "runs/own_data/base_$1" $settings --base commands-en \
    training.frozen_epochs="$3" training.learning_rate=0.001
done
speechseq forecast runs/own_data/* -o recipes/arabic_speech_commands/own_data.png --force
