"""An attack from a user's file, which gets the suite's network and images."""

import inspect
import random
from collections.abc import Callable, Collection, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from suite.running.runs import sha256
from suite.user_code import user_file
from suite.user_code.user_network import kind_text


class UserAttack:
    """An attack that is a user's function.

    Args:
        name: path/to/file.py:function. The function is called as `function(model, images, labels,
            epsilon)`, with pixels N x 3 x H x W in [0, 1], N class indices, and epsilon as a share
            of the pixels' range (16/255). Further parameters are given by name: those of
            `settings`, of which `step_size` is a share of the pixels' range, too, and `generators`,
            per-image generators, which depend on the seed and the image's name. It returns
            adversarial pixels.
        settings: the names of the attack's settings that the function can ask for.

    Attributes:
        asks: the names of the settings that it asks for.
        digests: SHA-256 of each file that it was made from, as hexadecimal digits.

    Raises:
        OSError: there is no such file.
        ValueError: it fails, has no such function, or one that can't be called like that.
    """

    def __init__(self, name: str, settings: Collection[str]):
        with user_file.loaded(name) as (self.function, files):
            self.file = files[0]
        self.digests = {str(file): sha256(file) for file in files}
        self.name = name.rpartition(":")[2]
        self.asks = _asked(name, self.function, [*settings, "generators"])

    def __call__(
        self,
        model: nn.Module,
        natural: Tensor,
        labels: Tensor,
        attack: object,
        generators: Sequence[torch.Generator],
    ) -> Tensor:
        """Return adversarial pixels, float, N x 3 x H x W, on the device of the natural ones.

        `attack` has the settings as attributes, epsilon and step_size in 1/255. If the function
        fails, or returns something else, a ValueError is raised.
        """
        # The function may draw from them, and a resumed run has to give the same images.
        seed = sum(torch.randint(2**32, (1,), generator=g).item() for g in generators) % 2**32
        for seeded in (torch.manual_seed, np.random.seed, random.seed):
            seeded(seed)
        settings = vars(attack) | {"step_size": attack.step_size / 255, "generators": generators}
        asked = {name: settings[name] for name in self.asks}
        arguments = (model, natural.clone(), labels.clone(), attack.epsilon / 255)
        with user_file.isolated_import(self.file), user_file.blamed(self.file):
            result = self.function(*arguments, **asked)
        model.eval()
        if not isinstance(result, Tensor) or result.shape != natural.shape:
            wrong = f"{self.name} returns {kind_text(result)}"
            raise ValueError(f"{self.file}: {wrong}, not adversarial pixels, {kind_text(natural)}")
        return result.detach().to(natural)


def _asked(name: str, function: Callable, settings: Collection[str]) -> list[str]:
    """Return the names of the function's parameters, after the first four, that are settings."""
    try:
        signature = inspect.signature(function)
        asks = [parameter for parameter in list(signature.parameters)[4:] if parameter in settings]
        signature.bind(*range(4), **dict.fromkeys(asks))
    except (TypeError, ValueError) as error:  # a function written in C may have no signature
        raise ValueError(
            f"{name} can't be called as function(model, images, labels, epsilon), with more "
            f"parameters out of {', '.join(settings)} ({error})"
        ) from error
    return asks
