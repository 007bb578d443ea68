"""A network by name, as one frozen module from [0, 1] RGB pixels to logits.

No images, no attacks. Begin with `load_model`, `predict_logits` and `find_network`.
"""
