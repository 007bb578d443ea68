"""NumPy arrays in pickles, rebuilt without running NumPy's own unpickling.

That trusts a file: flags in the file can make a dtype take any bytes for pointers to objects. The
stand-ins below only keep what a pickle gives them.
"""

import re

import numpy as np


class Dtype:
    """Stands for numpy.dtype."""

    def __init__(self, text: str, *_: object):
        self.text, self.order = text, "="

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]


class Array:
    """Stands for numpy.ndarray; its `data` are bytes, or a list if the elements are objects."""

    def __init__(self, *_: object):
        pass

    def __setstate__(self, state: tuple) -> None:
        _, self.shape, self.dtype, self._fortran, self.data = state

    def numbers(self) -> np.ndarray | None:
        """Return the array; None if its elements are no signed integers or floats."""
        if not re.fullmatch("[fi][1248]", self.dtype.text):
            return None
        # Python 2 pickled bytes as text.
        data = self.data.encode("latin1") if isinstance(self.data, str) else self.data
        array = np.frombuffer(data, self.dtype.order + self.dtype.text)
        return array.astype(self.dtype.text).reshape(
            self.shape, order="F" if self._fortran else "C"
        )


def _scalar(dtype: Dtype, data: object = b"") -> Array:
    array = Array()
    array.__setstate__((1, (), dtype, False, data))
    return array


# By their names in pickles of NumPy 1 and 2.
GLOBALS = {"numpy.ndarray": Array, "numpy.dtype": Dtype} | {
    f"{module}.multiarray.{name}": function
    for module in ("numpy.core", "numpy._core")
    for name, function in (("_reconstruct", Array), ("scalar", _scalar))
}
