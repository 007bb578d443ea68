"""Anybody's attack: a function in a user's file, which gets the suite's network and images."""

import inspect
import random
from collections.abc import Callable, Collection, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from suite.running.runs import sha256
from suite.user_code import user_file
from suite.user_code.isolated_import import isolated_import


class UserAttack:
    """An attack that is a function of the user's.

    Args:
        name: path/to/file.py:function. The function is called as `function(model, images, labels,
            epsilon)`, with pixels N x 3 x H x W in [0, 1], N class indices, and epsilon as a share
            of the pixels' range (16/255). What else it has parameters for is given by name: the
            settings of `suite.attack.Attack`, of which `step_size` is a share, too, and
            `generators`, a random generator per image, which depends on its name and the seed.
            It returns adversarial pixels.

    Attributes:
        name: the function's.
        asks: the names of the settings that it asks for.
        digests: SHA-256 of each file that it was made from, as hexadecimal digits.

    Raises:
        OSError: there is no such file.
        ValueError: it fails, has no such function, or one that can't be called like that.
    """

    def __init__(self, name: str, settings: Collection[str]):
        self.function, files = user_file.load_function(name, lambda function: function)
        self.digests = {str(file): sha256(file) for file in files}
        self.file = user_file.python_file(name)
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

        Raises:
            ValueError: the function fails, or returns something else.
        """
        _seed_libraries(generators)
        epsilon = attack.epsilon / 255
        settings = vars(attack) | {"step_size": attack.step_size / 255, "generators": generators}
        asked = {name: settings[name] for name in self.asks}
        with isolated_import(self.file), user_file.blamed(self.file):
            result = self.function(model, natural.clone(), labels.clone(), epsilon, **asked)
        model.eval()
        if not isinstance(result, Tensor) or result.shape != natural.shape:
            kind = type(result).__name__
            if isinstance(result, Tensor):
                kind = "a tensor of " + " x ".join(map(str, result.shape))
            raise ValueError(
                f"{self.file}: {self.name} returns {kind}, not adversarial pixels, a tensor of "
                + " x ".join(map(str, natural.shape))
            )
        return result.detach().to(natural)


def _asked(name: str, function: Callable, settings: Collection[str]) -> list[str]:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} does not tell what its parameters are") from error
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    further = [p for p in parameters[4:] if p.kind in by_name]
    asks = [p.name for p in further if p.name in settings]
    try:
        inspect.signature(function).bind(*range(4), **dict.fromkeys(asks))
    except TypeError as error:
        raise ValueError(
            f"{name} can't be called as function(model, images, labels, epsilon), with more "
            f"parameters out of {', '.join(settings)} ({error})"
        ) from error
    return asks


def _seed_libraries(generators: Sequence[torch.Generator]) -> None:
    """Seed what other people's code draws from, so that a batch gives the same when resumed."""
    seed = sum(torch.randint(2**32, (1,), generator=g).item() for g in generators) % 2**32
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
