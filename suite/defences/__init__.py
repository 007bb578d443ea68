"""Defences in front of networks; begin with `defended.load_defended`.

`defence_names` reads names without torch; `inputs`, `purifier` and `randomised` are the defences.
This room knows no attacks and no folders of images.
"""
