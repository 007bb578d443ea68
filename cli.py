"""What the three scripts' command lines share."""

import argparse
import logging
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence

from tqdm import tqdm

logger = logging.getLogger(__name__)


class Parser(argparse.ArgumentParser):
    """Shows defaults, and takes options with underscores (--input_dir) as well as hyphens."""

    def __init__(self, **arguments):
        super().__init__(
            formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False, **arguments
        )

    def parse_known_args(self, args: Sequence[str] | None = None, namespace=None):
        args = sys.argv[1:] if args is None else args
        return super().parse_known_args([_hyphenated(argument) for argument in args], namespace)


def _hyphenated(argument: str) -> str:
    option, equals, value = argument.partition("=")
    return option.replace("_", "-") + equals + value if option.startswith("--") else argument


def positive_int(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return number


def not_negative(text: str) -> float:
    number = float(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of 0 or more")
    return number


def odd(text: str) -> int:
    number = positive_int(text)
    if number % 2 == 0:
        raise argparse.ArgumentTypeError(f"{text} is not odd")
    return number


def probability(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return number


def gamma(text: str) -> float:
    number = float(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1")
    return number


def progress(batches: Iterable[tuple], total: int, every: int = 10) -> Iterator[tuple]:
    """Pass batches on, with a bar on a terminal, else with a line of the log each `every` batches.

    A batch is a tuple that begins with a list of images; `total` is the number of all images.
    """
    with tqdm(total=total, unit="image", disable=None) as bar:
        done = 0
        for number, batch in enumerate(batches, 1):
            yield batch
            done += len(batch[0])
            bar.update(len(batch[0]))
            if bar.disable and number % every == 0:
                logger.info("%d of %d images", done, total)


def run(main: Callable[[argparse.Namespace], None], parser: Parser) -> None:
    """Run a script: its log goes to standard error, a user's mistake is one line and status 1."""
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("timm").setLevel(logging.WARNING)
    try:
        main(args)
    except (OSError, ValueError) as error:
        sys.exit(f"{parser.prog}: error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
