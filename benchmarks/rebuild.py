"""Makes the bundled models anew, from the base and the training collections, by the recipes in ``configs/train``.

    python -m benchmarks.rebuild DATA OUT
    python -m benchmarks.rebuild DATA OUT --steps 20          # a rehearsal of some minutes: the models are no good

DATA holds the collections that the recipes name, as BEIR folders. Each model lands in a folder of its own in OUT. What
is there already is not made again, and a training that was interrupted goes on, so the same command may be given until
all is done: some hours on two cores, much less with a GPU.

The recipes are the present ones. Some of the weights that come with the package were made by what these recipes grew
from, as the model cards say, so that what is made here is of the same kind and not the same to the bit.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from stages.models.weights import read_weights, save_weights

RECIPES = Path(__file__).parent.parent / "configs" / "train"
BASE = "bundled:bi-encoder"
MIX = "head.mix"
"""Weights of MaxSim and of the cosine in the head of a reader."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A folder that ``cascade train`` or ``cascade distill`` makes.

    Args:
        name: of the folder.
        command: train or distill.
        recipe: file in ``configs/train``.
        base: folder made before that it starts from; empty for what the recipe says.
    """

    name: str
    command: str
    recipe: str
    base: str = ""

    def arguments(self, data: Path, out: Path, steps: int | None) -> list[str]:
        """Of the command line."""
        given = [self.command, "--config", str(RECIPES / self.recipe), "--data-root", str(data)]
        given += ["--base", str(out / self.base)] if self.base else []
        given += ["--steps", str(steps)] if steps else []
        return [*given, "--out", str(out / self.name)]


@dataclass(frozen=True, slots=True)
class Averaged:
    """A folder whose weights are a mean of others' (model soups, Wortsman et al., arXiv 2203.05482).

    Args:
        name: of the folder.
        of: share of each folder.
        mix: what the head's weights of MaxSim and cosine become.
    """

    name: str
    of: Mapping[str, float]
    mix: tuple[float, float]


FAMILY: tuple[Trained | Averaged, ...] = (
    Trained("reader", "train", "cross-encoder.yaml"),
    Trained("reader-of-contrasts", "train", "cross-encoder-contrasts.yaml", base="reader"),
    Averaged("cross-encoder", {"reader": 0.58, "reader-of-contrasts": 0.42}, (25.0, 4.0)),
    Trained("reader-of-four", "train", "listwise.yaml", base="reader"),
    Averaged("listwise", {"reader-of-four": 1.0}, (27.0, 5.0)),
    Trained("colbert", "distill", "colbert.yaml"),
    Trained("distilbert", "distill", "distilbert.yaml"),
)
"""What is made, in order; each from those before it."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the training collections")
    parser.add_argument("out", type=Path, help="where the models go; found again next time")
    parser.add_argument("--steps", type=int, help="of each training, for a rehearsal; default: the recipe's")
    given = parser.parse_args(arguments)
    if not given.data.is_dir():
        print(f"skipped: {given.data}: no such folder of training collections", file=sys.stderr)
        return 0
    given.out.mkdir(parents=True, exist_ok=True)
    for number, made in enumerate(FAMILY, start=1):
        print(f"{number} of {len(FAMILY)}: {given.out / made.name}", file=sys.stderr)
        if (given.out / made.name / "config.json").exists():
            continue
        if isinstance(made, Averaged):
            average(given.out, made)
            continue
        command = [sys.executable, "-m", "cascade", *made.arguments(given.data, given.out, given.steps)]
        code = subprocess.run(command, check=False).returncode
        if code:
            return code
    return 0


def average(folder: Path, made: Averaged) -> None:
    """Writes a mean of models, whole or not at all."""
    weights = {name: read_weights(folder / name) for name in made.of}
    first = next(iter(made.of))
    state = dict(weights[first])
    for key, tensor in state.items():
        if tensor.is_floating_point():
            state[key] = torch.stack([share * weights[name][key] for name, share in made.of.items()]).sum(0)
    state[MIX] = torch.tensor(made.mix)
    with tempfile.TemporaryDirectory(prefix=f".{made.name}.", dir=folder) as building:
        target = Path(building) / "model"
        shutil.copytree(
            folder / first, target, ignore=shutil.ignore_patterns("*.safetensors", "*.jsonl", "training.json")
        )
        save_weights(target, state, base=BASE, half=True)
        target.rename(folder / made.name)


if __name__ == "__main__":
    sys.exit(main())
