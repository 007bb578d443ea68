"""What a run takes of its machine and leaves on its disk; each module is an entry point.

`cli`: the command line. `devices`: precision and memory. `ranks`: the processes of torchrun.
`runs`: output folders that can be resumed. `checks`: warnings where a measurement would mislead.
No networks, no attacks. Nothing is imported here: `cli` has to answer before torch is there.
"""
