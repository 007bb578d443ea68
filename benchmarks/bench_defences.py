"""What a defended column costs, relative to the bare network's: the ratio within one run.

    python benchmarks/bench_defences.py
    python benchmarks/bench_defences.py --arch resnet50 --defences jpeg:75 rp

Takes processor time, of which other programs take nothing; on a CPU.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

from suite.defences.defended import load_defended
from suite.networks.classifier import predict_logits
from suite.running import devices


def main() -> None:
    args = get_parser().parse_args()
    devices.choose_device(no_cuda=True)
    names = [args.arch, *(f"{defence}+{args.arch}" for defence in args.defences)]
    models = {name: load_defended(name).accelerate() for name in names}
    pixels = torch.randint(0, 256, (args.batch_size, 3, args.size, args.size)) / 255
    for model in models.values():
        predict_logits(model, pixels)
    taken = {name: [] for name in names}
    for _ in range(args.rounds):
        for name, model in models.items():
            begin = time.process_time()
            predict_logits(model, pixels)
            taken[name].append((time.process_time() - begin) / args.batch_size)
    print("| column | ms an image | relative to the bare network |")
    print("|---|---|---|")
    for name, seconds in taken.items():
        pairs = zip(seconds, taken[args.arch], strict=True)
        ratio = statistics.median(own / bare for own, bare in pairs)
        print(f"| {name} | {1000 * statistics.median(seconds):.1f} | {ratio:.2f} |")


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--arch", default="efficientnet_lite1")
    parser.add_argument("--defences", nargs="+", default=["jpeg:75", "bits:3", "fd"])
    parser.add_argument("--size", type=int, default=224, help="of the images, in pixels")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=9)
    return parser


if __name__ == "__main__":
    main()
