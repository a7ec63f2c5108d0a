"""Blend the weights of a run with those of one that went on from it.

    python scripts/blend_runs.py runs/an4_strings runs/an4_margins --share 0.6 -o runs/an4_blended

What a network forgot when it learnt for other conditions comes back, and most of what it learnt
stays. The new run has the second one's recipe.

Source: Wortsman et al. 2022, Robust fine-tuning of zero-shot models (WiSE-FT).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from command_line import one_line_errors, parser_of
from runs import reweighted

from speechseq.errors import ModelError
from speechseq.model_file import RUN_MODEL, RUN_WEIGHTS
from speechseq.training.encoder import load_network
from speechseq.training.run_folder import read_run


def blend(first: Path, second: Path, share: float, run: Path) -> None:
    """Write a run whose weights are `share` of the second's and the rest of the first's.

    Raises:
        ModelError: one is no run, they are not of one network, or `run` is there already.
    """
    theirs, ours = read_run(first), read_run(second)
    for what, one, other in (
        ("features", theirs[0].features, ours[0].features),
        ("network", theirs[0].model, ours[0].model),
        ("tokens", theirs[1], ours[1]),
    ):
        if one != other:
            raise ModelError(
                f"{second}: has other {what} than {first}; name a run that began there"
            )
    networks = [
        load_network(folder / RUN_WEIGHTS, *read)
        for folder, read in ((first, theirs), (second, ours))
    ]
    ones, others = (network.state_dict() for network in networks)
    weights = {name: torch.lerp(ones[name], others[name], share) for name in ones}
    reweighted(second, weights, run)


def share_of(text: str) -> float:
    """Return a share, 0 to 1: a `type` of arguments."""
    if not 0 <= float(text) <= 1:
        raise argparse.ArgumentTypeError(f"{text}: 0 to 1 goes here")
    return float(text)


def main() -> int:
    """Run from the command line."""
    parser = parser_of(__doc__)
    parser.add_argument("first", type=Path, metavar="RUN")
    parser.add_argument("second", type=Path, metavar="RUN", help="went on from the first")
    parser.add_argument("--share", type=share_of, default=0.5, help="of the second (default: 0.5)")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="RUN")
    arguments = parser.parse_args()
    with one_line_errors():
        blend(arguments.first, arguments.second, arguments.share, arguments.output)
    print(arguments.output / RUN_MODEL)
    return 0


if __name__ == "__main__":
    sys.exit(main())
