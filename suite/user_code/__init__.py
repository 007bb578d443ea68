"""A Python file of the user's, run isolated from the suite, and the network or the attack in it."""
