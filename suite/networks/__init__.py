"""A network by name, as one frozen module from [0, 1] RGB pixels to logits.

Begin with `load_model`, `predict_logits` and `find_network`. This room knows no images and no
attacks.
"""
