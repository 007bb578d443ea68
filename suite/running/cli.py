"""The parser, options and progress bar of all scripts. No torch until a script is run."""

import argparse
import logging
import math
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from suite.images.labels import LABELS, NIPS2017, RUN, SUFFIXES
from suite.running import precision

logger = logging.getLogger(__name__)

RANK = int(os.environ.get("RANK", 0))  # the number that torchrun gave this process


class Parser(argparse.ArgumentParser):
    """Shows defaults, and takes options with underscores (--input_dir) as well as hyphens."""

    def __init__(self, **arguments):
        super().__init__(
            formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False, **arguments
        )

    def parse_known_args(self, args: Sequence[str] | None = None, namespace=None):
        args = sys.argv[1:] if args is None else args
        hyphenated = [re.sub("^--[^=]+", lambda o: o[0].replace("_", "-"), each) for each in args]
        return super().parse_known_args(hyphenated, namespace)

    def error(self, message: str):
        """Report the error in one line, only once if torchrun started several processes."""
        if RANK:
            time.sleep(2)  # torchrun ends the others when the first one ends
            sys.exit(2)
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def number_type(kind: type, description: str, accepted: Callable[[float], bool]) -> Callable:
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


positive_int = number_type(int, "a whole number above 0", lambda n: n > 0)
whole = number_type(int, "a whole number of 0 or more", lambda n: n >= 0)
odd = number_type(int, "an odd whole number above 0", lambda n: n > 0 and n % 2 == 1)
finite = number_type(float, "a number", math.isfinite)
not_negative = number_type(float, "a number of 0 or more", lambda n: 0 <= n < math.inf)
positive = number_type(float, "a number above 0", lambda n: 0 < n < math.inf)
at_least_1 = number_type(float, "a number of 1 or more", lambda n: 1 <= n < math.inf)
probability = number_type(float, "between 0 and 1", lambda n: 0 <= n <= 1)
fraction = number_type(float, "above 0 and below 1", lambda n: 0 < n < 1)


# fmt: off
def add_checkpoint(add: Callable) -> None:
    """Add --checkpoint to a parser or a group; `add` is its `add_argument`."""
    add("--checkpoint", nargs="+", metavar="[NAME=]FILE",
        help="weights for a network of --arch, .pth or .safetensors, instead of its own; with "
        "several networks, each file needs its network's name: resnet50=mine.pth")


def add_running(add: Callable) -> None:
    """Add the options about the machine to a parser or a group; `add` is its `add_argument`."""
    add("--batch-size", type=positive_int,
        help="images at a time, on which rounding depends; halved where memory runs out; 16 on a "
        "CPU and 64 on a GPU if absent")
    add("--workers", type=whole,
        help="threads that decode images ahead, and threads that write them; 0 decodes in the main "
        "thread; one for each core if absent")
    add("--precision", choices=precision.CHOICES, default=precision.DEFAULT,
        help="of the networks' arithmetic: tf32 is fp32 where there is no GPU; with bf16 the "
        "perturbation stays float32")
    add("--no-cuda", action="store_true", help="run on the CPU")
# fmt: on


def refuse_unwritable(file: Path | None, *suffixes: str) -> None:
    """Raise a UsageError if a file has another suffix, or no folder; None is no file."""
    if file and file.suffix not in suffixes:
        raise UsageError(f"{file} does not end in {' or '.join(suffixes)}")
    if file and not file.parent.is_dir():
        raise UsageError(f"no such folder: {file.parent}")


def refuse_overwriting(
    outputs: Sequence[Path | None], folders: Sequence[Path | None], files: Sequence[Path]
) -> None:
    """Raise a UsageError if two outputs are one file, or if one would change what is read.

    Args:
        outputs: None is no file.
        folders: of images; a picture in one of them would be taken for one of its images. None is
            no folder.
        files: others that are read.
    """
    taken = [file.resolve() for file in files]
    for output in filter(None, outputs):
        file = output.resolve()
        if file in taken:
            raise UsageError(f"{output} is given twice: each output needs a file of its own")
        taken.append(file)
        for folder in filter(None, folders):
            place = folder.resolve()
            image = file.suffix in SUFFIXES and (
                file.parent == place or (place in file.parents and file.exists())
            )
            # The label file of a folder images/ may stand beside it.
            beside = file.parent in (place, place.parent) and file.name in (LABELS, NIPS2017, RUN)
            if image or beside:
                raise UsageError(f"{output} would be taken for a file of {folder}: name another")


class UsageError(ValueError):
    """Options that do not go together; the exit status is 2, as for a wrong option."""


def progress(
    batches: Iterable[tuple], total: int, every: int = 10, writer: object = None
) -> Iterator[tuple]:
    """Pass batches on, with a bar on a terminal, else with a line of the log every few batches.

    A last line says how the time was shared out: whatever took most of it is the bottleneck.

    Args:
        batches: tuples that begin with a list of images, of which all ranks have `total`.
        every: the number of batches from one line to the next.
        writer: a `pictures.Writer`.
    """
    from suite.running import ranks

    count, done, decoding = ranks.counter(), 0, 0.0
    begin = before = time.perf_counter()
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
        decoded = round(100 * decoding / seconds)
        written = round(100 * writer.waited / seconds) if writer else 0
        waits = f"waits for decoding {decoded} %, writing {written} %"
        logger.info(f"{seconds:.1f} s: networks {100 - decoded - written} %, {waits}")


def print_result(text: str, end: str = "\n") -> None:
    """Print to standard output at once; an OSError says why that is impossible."""
    if sys.stdout is None:
        raise OSError("can't write to standard output: it is closed")
    try:
        print(text, end=end, flush=True)
    except OSError as error:
        # What is left of it would be an error again at Python's own exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        raise OSError(f"can't write to standard output: {error.strerror}") from error


def run(main: Callable[[argparse.Namespace], None], parser: Parser) -> None:
    """Run a script: its log goes to standard error, a user's mistake is one line and status 1."""
    if sys.stderr is None:  # closed: the log is lost, but not the run
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  it stays open to the end
    if hasattr(sys.stdout, "reconfigure"):  # a notebook's has no encoding
        sys.stdout.reconfigure(errors="backslashreplace")  # where ± or a name is not in it
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch reads it when it is imported
    logging.basicConfig(level=logging.ERROR if RANK else logging.INFO, format="%(message)s")
    logging.getLogger("timm").setLevel(logging.WARNING)
    name = f"{parser.prog} (rank {RANK})" if RANK else parser.prog

    def stop(number, frame):
        raise KeyboardInterrupt(number)

    signal.signal(signal.SIGTERM, stop)  # which a batch system sends at its time limit
    try:
        main(parser.parse_args())
    except UsageError as error:
        parser.error(str(error))
    except BrokenPipeError:  # nobody reads the output any more
        sys.exit(141)  # as shells say of a program that a closed pipe ended
    except (OSError, ValueError) as error:
        sys.exit(f"{name}: error: {error}")
    except (RuntimeError, MemoryError) as error:
        from suite.running import devices

        if "start new thread" in str(error):
            hint = "--workers 0 takes fewest, ulimit -v and -u say what is allowed"
            sys.exit(f"{name}: error: no thread can be started any more: {hint}")
        if not devices.out_of_memory(error):
            raise
        sys.exit(f"{name}: error: out of memory, with one image ({error})")
    except KeyboardInterrupt as stopped:
        print(f"{parser.prog}: stopped", file=sys.stderr, flush=True)
        # At once, since other threads may wait for ever for a lock that the main thread held.
        os._exit(128 + (stopped.args[0] if stopped.args else signal.SIGINT))
    finally:
        try:
            if sys.stdout:
                print_result("", end="")
        except BrokenPipeError:
            pass
        except OSError as error:
            sys.exit(str(error))
