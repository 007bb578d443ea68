"""What a run takes of its machine and leaves on its disk; each module is an entry point.

`cli`: the command line. `options`: those of an attack. `defended`: names of defences. `devices`:
precision and memory. `draws`: random numbers of each image. `ranks`: the processes of torchrun.
`runs`: output folders that can be resumed. `checks`: warnings where a measurement would mislead.
No networks, no attacks. Nothing is imported here: `cli`, `options` and `defended` have to answer
before torch is there.
"""
