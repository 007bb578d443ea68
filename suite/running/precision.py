"""The arithmetic of the networks. No torch, since the command line imports this.

"tf32", the default, lets convolutions and matrix products of float32 round their factors to 10 bits
on GPUs that have TensorFloat-32. PyTorch's own default does so for convolutions, which make up
nearly all of these networks, and the released code has run with that on every GPU since 2020.
"fp32" is exact, and on a GPU repeatable byte for byte. "bf16" runs the networks under autocast; the
perturbation stays float32. On a CPU "tf32" is "fp32".
"""

CHOICES = ("fp32", "tf32", "bf16")
DEFAULT = "tf32"
