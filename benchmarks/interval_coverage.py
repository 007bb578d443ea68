"""How often the interval for a paired difference covers the truth, over simulated data.

    python benchmarks/interval_coverage.py

Two attacks succeed at given rates on the same images; `overlap` says how much they succeed on the
same ones, from 0, independent, to 1, as much as the rates allow. Each line is of 2000 data sets.
"""

import argparse
import functools
import statistics
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent.parent))

from suite.results.paired import paired_interval

RATES = (50, 60, 70, 80, 90, 95, 98)
GAINS = (0, 3, 10, 20)
OVERLAPS = (0, 0.5, 0.9)
IMAGES = (100, 1000)


def coverage(images, rate, better, overlap, simulations, noise) -> tuple[float, float]:
    """Return in percent how often the interval holds the difference, and the discordant images."""
    independent, most = rate * better, min(rate, better)
    both = independent + overlap * (most - independent)
    cells = [both, better - both, rate - both, 1 - rate - better + both]
    drawn = noise.multinomial(images, np.clip(cells, 0, 1), simulations)
    interval = functools.cache(paired_interval)
    intervals = (interval(won, lost, images) for _, won, lost, _ in drawn.tolist())
    covered = sum(low <= better - rate <= high for low, high in intervals)
    return 100 * covered / simulations, images * (cells[1] + cells[2])


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--simulations", type=int, default=2000, help="of each setting")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    noise = np.random.default_rng(args.seed)
    settings = [
        (images, rate, rate + gain, overlap)
        for images in IMAGES
        for rate in RATES
        for gain in GAINS
        for overlap in OVERLAPS
        if rate + gain <= RATES[-1]
    ]
    found = []
    print("images  rates     overlap  discordant  coverage in %")
    for images, rate, better, overlap in tqdm(settings, disable=None):
        covered, discordant = coverage(
            images, rate / 100, better / 100, overlap, args.simulations, noise
        )
        found.append((discordant, covered))
        print(f"{images:>6}  {rate} to {better}  {overlap:>7}  {discordant:>10.1f}  {covered:.1f}")
    for least in (0, 5):
        of = [covered for discordant, covered in found if discordant >= least]
        within = sum(94 <= covered <= 96.5 for covered in of)
        print(
            f"{len(of)} settings with {least} or more discordant images expected: "
            f"{min(of):.1f} to {max(of):.1f} %, mean {statistics.fmean(of):.2f} %, "
            f"{within} within 94 to 96.5 %"
        )


if __name__ == "__main__":
    main()
