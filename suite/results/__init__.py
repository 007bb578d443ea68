"""What target networks answer to folders of images: counts, statistics, tables, plots, galleries.

Nothing here takes a gradient. Begin with `targets.Targets`, which answers, `transfer.classify`,
which asks it, and `rates.merge_repeats`, which makes the rows of a table.
"""
