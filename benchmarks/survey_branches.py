"""Count in how many networks the residual branches are found: random weights, one pass each.

    python benchmarks/survey_branches.py

Takes all of pretrainedmodels, all of torchvision's classifiers, and a seeded sample of timm's.
Networks of over a billion parameters, or on images above 512 pixels, are traced on meta tensors,
which have shapes but no values, so that the survey fits into 16 GB of memory.
"""

import argparse
import gc
import random
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import pretrainedmodels
import timm
import torch
import torchvision
from torchvision.models import list_models

from branches import trace_connections
from suite.networks.classifier import Classifier, load_model


def build(name: str) -> Classifier:
    """Return the network with random weights, or on the meta device if it takes much memory."""
    try:
        with torch.device("meta"):
            model = load_model(name, pretrained=False)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        if parameters > 1_000_000_000 or max(model.input_size) > 512:
            return model
    except (RuntimeError, NotImplementedError):
        pass  # not every network can be made without values
    return load_model(name, pretrained=False)


def survey(name: str) -> tuple[str, str]:
    """Return "found", "none" or "could not", and how many branches or what was in the way."""
    try:
        model = build(name)
        connections = trace_connections(model.network, model.input_size)
        connections = [c for c in connections if c.residual]
    except Exception as error:  # whatever it is, the survey names it and goes on
        return "could not", f"{type(error).__name__}: {error}".partition("\n")[0]
    untied = [c for c in connections if c.module is None]
    if untied:
        places = ", ".join(dict.fromkeys(c.place for c in untied))
        return "could not", f"{len(untied)} of {len(connections)} branches: {places}"
    return ("found", f"{len(connections)} branches") if connections else ("none", "")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sample", type=int, default=200, help="how many of timm's networks")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.simplefilter("ignore")

    of_timm = random.Random(args.seed).sample(timm.list_models(), args.sample)
    libraries = {
        "pretrainedmodels": pretrainedmodels.model_names,
        "torchvision": [f"torchvision/{name}" for name in list_models(torchvision.models)],
        f"timm, {args.sample} of {len(timm.list_models())}": [f"timm/{n}" for n in sorted(of_timm)],
    }
    counts = {}
    for library, names in libraries.items():
        counts[library] = Counter()
        for name in names:
            start = time.perf_counter()
            outcome, what = survey(name)
            counts[library][outcome] += 1
            seconds = time.perf_counter() - start
            print(f"{name}: {outcome} {what} ({seconds:.1f} s)", flush=True)
            gc.collect()
    print(f"\n| {'library':<22} | networks | found | none | could not |\n|---|---|---|---|---|")
    for library, count in counts.items():
        numbers = [count.total(), count["found"], count["none"], count["could not"]]
        print(f"| {library:<22} | {' | '.join(map(str, numbers))} |")


if __name__ == "__main__":
    main()
