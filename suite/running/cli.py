"""What the three scripts' command lines share."""

import argparse
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from suite.running import precision

logger = logging.getLogger(__name__)

RANK = int(os.environ.get("RANK", 0))  # of the processes that torchrun starts


class Parser(argparse.ArgumentParser):
    """Shows defaults, and takes options with underscores (--input_dir) as well as hyphens."""

    def __init__(self, **arguments):
        super().__init__(
            formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False, **arguments
        )

    def parse_known_args(self, args: Sequence[str] | None = None, namespace=None):
        args = sys.argv[1:] if args is None else args
        return super().parse_known_args([_hyphenated(argument) for argument in args], namespace)

    def error(self, message: str):
        """Say what is wrong with the options, once if torchrun started several processes."""
        if RANK:
            time.sleep(2)  # torchrun ends the others when the first one ends
            sys.exit(2)
        super().error(message)


def _hyphenated(argument: str) -> str:
    option, equals, value = argument.partition("=")
    return option.replace("_", "-") + equals + value if option.startswith("--") else argument


def _number_type(kind: type, description: str, accepted: Callable[[float], bool]) -> Callable:
    """Return an argument type: a number that `accepted` holds for."""

    def parse(text: str) -> float:
        try:
            number = kind(text)
        except ValueError:
            number = math.nan
        if not accepted(number):
            raise argparse.ArgumentTypeError(f"{text} is not {description}")
        return number

    return parse


positive_int = _number_type(int, "a whole number above 0", lambda n: n > 0)
whole = _number_type(int, "a whole number of 0 or more", lambda n: n >= 0)
odd = _number_type(int, "an odd whole number above 0", lambda n: n > 0 and n % 2 == 1)
finite = _number_type(float, "a number", math.isfinite)
not_negative = _number_type(float, "a number of 0 or more", lambda n: 0 <= n < math.inf)
positive = _number_type(float, "a number above 0", lambda n: 0 < n < math.inf)
at_least_1 = _number_type(float, "a number of 1 or more", lambda n: 1 <= n < math.inf)
probability = _number_type(float, "between 0 and 1", lambda n: 0 <= n <= 1)
fraction = _number_type(float, "above 0 and below 1", lambda n: 0 < n < 1)


def add_checkpoint(add: Callable) -> None:
    """Add --checkpoint to a parser or a group, whose `add_argument` this gets."""
    add(
        "--checkpoint",
        nargs="+",
        metavar="[NAME=]FILE",
        help="weights for a network of --arch, .pth or .safetensors, instead of its own; with "
        "several networks each file needs its network's name: resnet50=mine.pth",
    )


def add_running(add: Callable) -> None:
    """Add what the scripts have in common about the machine, to a parser or a group."""
    add(
        "--batch-size",
        type=positive_int,
        help="images at a time, fewer where memory runs out; what fits if absent",
    )
    add(
        "--workers",
        type=whole,
        help="processes that decode images ahead, and threads that write them; 0 decodes in the "
        "main process; a process for each core if absent",
    )
    add(
        "--precision",
        choices=precision.CHOICES,
        default=precision.DEFAULT,
        help="of the networks' arithmetic: tf32 is fp32 where there is no GPU; with bf16 the "
        "perturbation stays float32",
    )
    add("--no-cuda", action="store_true", help="run on the CPU")


def named_files(archs: Sequence[str], given: Sequence[str] | None) -> dict[str, Path]:
    """Return which network of --arch has which file of --checkpoint.

    Raises:
        UsageError: a file has no network, a network two files, or stands twice in --arch.
    """
    files = {}
    for text in given or []:
        # A path may have an equals sign, too: only names of networks are taken off.
        named = [arch for arch in archs if text.startswith(f"{arch}=")]
        if not named and len(archs) > 1:
            raise UsageError(
                f"--checkpoint {text} does not begin with one of {', '.join(archs)} and an equals "
                "sign: with several networks each file needs its network's name"
            )
        arch = max(named, key=len) if named else archs[0]
        if arch in files or archs.count(arch) > 1:
            raise UsageError(f"--checkpoint {text}: which {arch}? A network has one file")
        files[arch] = Path(text.removeprefix(f"{arch}=") if named else text).expanduser()
    return files


def refuse_unwritable(file: Path | None, *suffixes: str) -> None:
    """Raise a UsageError if a file could not be written at the end; None is no file."""
    if file and file.suffix not in suffixes:
        raise UsageError(f"{file} does not end in {' or '.join(suffixes)}")
    if file and not file.parent.is_dir():
        raise UsageError(f"no such folder: {file.parent}")


class UsageError(Exception):
    """Options that do not go together; the exit status is 2, as for a wrong option."""


def progress(
    batches: Iterable[tuple], total: int, every: int = 10, writer: object = None
) -> Iterator[tuple]:
    """Pass batches on, with a bar on a terminal, else with a line of the log each `every` batches.

    A last line says what the run waited for: whatever takes most of its time is its bound.

    Args:
        batches: tuples that begin with a list of images.
        total: number of all images, those of other ranks included.
        writer: an `images.Writer`, whose `waited` is said.
    """
    from suite.running import ranks

    count, done = ranks.counter(), 0
    begin = before = time.perf_counter()
    decoding = 0.0
    with tqdm(total=total, unit="image", disable=True if RANK else None) as bar:
        for number, batch in enumerate(batches, 1):
            decoding += time.perf_counter() - before
            yield batch
            done = count(len(batch[0]))
            bar.update(done - bar.n)
            if bar.disable and number % every == 0:
                logger.info("%d of %d images", done, total)
            before = time.perf_counter()
    seconds = time.perf_counter() - begin
    if done:
        shares = {"decoding": decoding, "writing": writer.waited if writer else 0.0}
        shares = {what: round(100 * share / seconds) for what, share in shares.items()}
        said = ", ".join(f"{what} {share} %" for what, share in shares.items())
        logger.info(
            "%.1f s: networks %d %%, waits for %s", seconds, 100 - sum(shares.values()), said
        )


class Terminated(BaseException):
    """SIGTERM arrived, as it does at a batch system's time limit."""


def run(main: Callable[[argparse.Namespace], None], parser: Parser) -> None:
    """Run a script: its log goes to standard error, a user's mistake is one line and status 1."""
    try:
        _run(main, parser)
    finally:
        _flush()


def _run(main: Callable[[argparse.Namespace], None], parser: Parser) -> None:
    args = parser.parse_args()
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch, not yet imported, asks for it
    logging.basicConfig(level=logging.ERROR if RANK else logging.INFO, format="%(message)s")
    logging.getLogger("timm").setLevel(logging.WARNING)

    def terminate(number, frame):
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    try:
        main(args)
    except UsageError as error:
        parser.error(str(error))
    except (OSError, ValueError) as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            sys.exit(141)  # as shells say of a program that a closed pipe ended
        sys.exit(f"{parser.prog}{_of_rank()}: error: {error}")
    except (RuntimeError, MemoryError) as error:
        from suite.running import devices

        if "DataLoader worker" in str(error):  # which torch raises wherever the main thread is
            message = f"a process that reads images died ({error}): take fewer --workers"
            sys.exit(f"{parser.prog}{_of_rank()}: error: {message}")
        if not devices.out_of_memory(error):
            raise
        sys.exit(f"{parser.prog}{_of_rank()}: error: out of memory, with one image ({error})")
    except (KeyboardInterrupt, Terminated) as stop:
        status = 143 if isinstance(stop, Terminated) else 130
        print(f"{parser.prog}: stopped", file=sys.stderr, flush=True)
        # The signal may have come while a lock was held, for which threads now wait for ever.
        os._exit(status)


def _flush() -> None:
    """Print what waits: at Python's own end a closed pipe, as `| head` leaves, is an error."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            sys.exit(f"can't write to standard output: {error.strerror}")


def _nobody_reads() -> bool:
    try:
        print(flush=True)
    except BrokenPipeError:
        return True
    return False


def _of_rank() -> str:
    return f" (rank {RANK})" if RANK else ""
