"""What networks answer to folders of images: counts, tables, plots and galleries.

No gradients, no hooks. Begin with `Committee`, which answers, `classify`, which asks it, and
`merge_repeats`, which makes the rows of a table.
"""
