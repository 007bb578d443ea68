"""The attack on tensors, and the loop that takes it over a folder of images.

No names of networks to load, no command line, no evaluation on targets. Begin with `Attack`,
`Source` and `Attacker`; `Crafter` is the loop.
"""

from suite.attack.attacker import Attacker
from suite.attack.crafting import Crafter, label_row, merged, summary
from suite.attack.gammas import chosen_gammas
from suite.attack.own import OwnAttack
from suite.attack.paths import OneWay
from suite.attack.pool import Pool, read_pool
from suite.attack.settings import Attack
from suite.attack.sources import Source
from suite.running.draws import image_generators

__all__ = [
    "Attack",
    "Attacker",
    "Crafter",
    "OneWay",
    "OwnAttack",
    "Pool",
    "Source",
    "chosen_gammas",
    "image_generators",
    "label_row",
    "merged",
    "read_pool",
    "summary",
]
