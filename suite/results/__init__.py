"""What networks answer to folders of images: counts, tables, plots and galleries.

No gradients, no hooks. Begin with `Committee`, which answers, `classify`, which asks it, and
`merge_repeats`, which makes the rows of a table.
"""

from suite.results.answers import write_answers
from suite.results.committee import Committee
from suite.results.connections import listed_branches
from suite.results.finished import run_json, run_text
from suite.results.paired import baselines, compare
from suite.results.plots import GALLERY_ROWS, write_gallery, write_plot
from suite.results.published import compare_published, read_published
from suite.results.rates import merge_repeats
from suite.results.report import json_text, text, write
from suite.results.transfer import classify, count, examples, successes
from suite.results.visibility import Visibility, mean_visibility

__all__ = [
    "GALLERY_ROWS",
    "Committee",
    "Visibility",
    "baselines",
    "classify",
    "compare",
    "compare_published",
    "count",
    "examples",
    "json_text",
    "listed_branches",
    "mean_visibility",
    "merge_repeats",
    "read_published",
    "run_json",
    "run_text",
    "successes",
    "text",
    "write",
    "write_answers",
    "write_gallery",
    "write_plot",
]
