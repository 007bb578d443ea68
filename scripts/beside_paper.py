"""Print a table of evaluate.py (--output FILE.json) as Markdown, the paper's numbers beside ours.

python scripts/beside_paper.py paper_tables/resnet152.json
"""

import argparse
import csv
import json
from pathlib import Path


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=Path)
    args = parser.parse_args()
    with Path(__file__).with_name("paper_numbers.csv").open(newline="") as stream:
        paper = {
            (row["source"], row["attack"], str(float(row["gamma"])), row["target"]): row
            for row in csv.DictReader(stream)
        }
    rows = json.loads(args.results.read_text())
    archs = list(rows[0]["targets"])
    print(f"| source | attack | gamma | {' | '.join(archs)} |")
    print("|---" * (3 + len(archs)) + "|")
    for row in rows:
        cells = []
        for arch in archs:
            cell = f"{row['targets'][arch]['success']['rate']:.2f}"
            theirs = paper.get((row["source"], row["attack"], str(row["gamma"]), arch))
            cells.append(cell + (f" (paper: {theirs['mean']} ± {theirs['std']})" if theirs else ""))
        print(f"| {row['source']} | {row['attack']} | {row['gamma']} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
