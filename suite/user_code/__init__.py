"""A Python file of the user's, run isolated from the suite, and the network or attack in it.

`user_file`: the file. `user_network` and `input_sizes`: a network, its logits and the images that
it takes. `user_attack`: an attack. `process_settings`: what such code may change for itself alone.
"""
