"""Try networks, or a protocol's networks, with random weights; needs no download.

    python scripts/load_networks.py paper transferattack ta-bench tpami

Each network is accelerated as in a run, and classifies an image of noise of its own input size. The
exit status is 1 if one can't be built, or if its logits are not 1000 finite numbers.
"""

import gc
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from suite.running import cli


def get_parser() -> cli.Parser:
    parser = cli.Parser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "names",
        nargs="+",
        metavar="NAME",
        help="networks; paper, transferattack, ta-bench and tpami stand for a protocol's sources "
        "and targets",
    )
    return parser


def main(args) -> None:
    import torch

    from suite.networks.classifier import load_model, predict_logits
    from suite.networks.protocols import PROTOCOLS, expand_protocols

    torch.manual_seed(0)
    names, failed = expand_protocols(args.names, PROTOCOLS), []
    for name in names:
        start = time.perf_counter()
        model = load_model(name, pretrained=False).accelerate()  # as runs do
        logits = predict_logits(model, torch.rand(1, *model.input_size))
        usable = logits.shape == (1, 1000) and bool(logits.isfinite().all())
        size = "x".join(map(str, model.input_size[1:]))
        millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        seconds = time.perf_counter() - start
        said = "finite" if usable else f"not usable: {tuple(logits.shape)}"
        print(f"{name:<51} {size:>7} {millions:6.1f} M {seconds:5.1f} s  {said}", flush=True)
        if not usable:
            failed.append(name)
        del model
        gc.collect()
    print(f"{len(names)} networks, {len(failed)} failed")
    if failed:
        raise ValueError(f"logits that are not 1000 finite numbers: {', '.join(failed)}")


if __name__ == "__main__":
    cli.run(main, get_parser())
