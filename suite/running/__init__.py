"""What any run needs, whatever it computes: nothing about attacks, defences or tables.

`cli`: the command line. `runs`: output folders that can be resumed. `devices` and `precision`: the
device, its arithmetic and its memory. `ranks`: the processes of torchrun. `random_numbers`:
per-image generators. `cli` and `precision` do not import torch, so that --help answers at once.
"""
