"""Defences in front of a network: modules from [0, 1] RGB pixels to pixels of the same size.

No attacks, no folders. Names are read by `suite.running.defended`. Begin with `load`.
"""
