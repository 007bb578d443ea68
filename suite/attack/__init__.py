"""The attack on tensors, and the loop that takes it over a folder of images.

`loop.GradientAttack` is the attack, `sources.Source` a network with SGM, `crafting.Crafter` the
loop over a folder. Networks are not loaded and targets are not evaluated here.
"""
