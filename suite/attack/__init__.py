"""The attack on tensors, and the loop that takes it over a folder of images.

No names of networks to load, no command line, no evaluation on targets. Begin with `Attack`,
`Source` and `Attacker`; `Crafter` is the loop.
"""
