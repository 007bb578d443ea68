"""Craft adversarial images on a source network, with the Skip Gradient Method (SGM) if gamma < 1.

    python attack_iter.py --input-dir=nat_images --output-dir=adv_images --arch=densenet201 \
        --gamma=0.5 --epsilon=16 --num-steps=10 --step-size=2

Writes a PNG for each image, labels.csv, and run.json, which says with what they were made. After an
interruption the same command does the rest.
"""

from pathlib import Path

from suite.attack import settings
from suite.defences import defence_names
from suite.running import cli


def get_parser() -> cli.Parser:
    parser = cli.Parser(description=__doc__.partition("\n")[0])
    # fmt: off
    parser.add_argument("--input-dir", type=Path, help="folder of natural images")
    parser.add_argument("--output-dir", type=Path, help="folder to write")

    add = parser.add_argument_group("source").add_argument
    add("--arch", nargs="+", default=["efficientnet_lite0"], help="source network, or an ensemble")
    cli.add_checkpoint(add)
    add("--attack", metavar="FILE.py:FUNCTION",
        help="an attack of your own, function(model, images, labels, epsilon), which gets the "
        "other options below that it has parameters for")
    add("--through-defence", action="store_true",
        help="attack through the defences in front of --arch (adaptive), as in bits:3+resnet50")

    settings.add_options(parser)

    add = parser.add_argument_group("SGM").add_argument
    add("--gamma", type=settings.gamma, nargs="+", default=[1.0],
        help="decay factor of the residual gradients, for all networks or for each; "
        "1: the plain attack, below 1: SGM; auto: what is published for the network, else 0.5")
    add("--hooks", choices=("auto", "relu", "branch"), default="auto",
        help="relu: those that the authors released; branch: the paper's formula; auto: relu where "
        "the authors' exist")
    add("--branches", metavar="REGEX",
        help="scale the gradient at the output of the modules whose whole names match, instead of "
        "the residual branches that are found")
    add("--list-branches", action="store_true",
        help="print the residual branches of --arch, and stop; needs neither images nor weights")

    add = parser.add_argument_group("running").add_argument
    add("--overwrite", action="store_true", help="start afresh in a folder that has images")
    add("--on-error", choices=("stop", "skip"), default="stop",
        help="at an unreadable image; the exit status is 1 either way")
    cli.add_running(add)
    add("--print-freq", type=cli.positive_int, default=10,
        help="batches from one line of the log to the next, where there is no progress bar")
    add("--json", action="store_true", help="print the result as JSON")
    # fmt: on
    return parser


def main(args) -> None:
    if args.list_branches:
        from suite.results.connections import listed_branches
        from suite.results.finished import run_json, run_text

        for text in listed_branches(args.arch, args.json):
            print(text)
        return
    check(args)

    from suite.attack.crafting import (
        Crafter,
        crafted_row,
        merged_shares,
        run_summary,
        warn_of_absent_labels,
        warn_of_unchanged,
    )
    from suite.attack.gammas import chosen_gammas
    from suite.attack.pool import read_pool
    from suite.images.folders import in_batches, list_images
    from suite.images.image_checks import refuse_own_targets, refuse_unlabelled
    from suite.images.labels import write_labels
    from suite.images.pictures import Writer, read_batches
    from suite.networks.answer_checks import refuse_other_classes, warn_of_accuracy
    from suite.results.connections import listed_branches
    from suite.results.finished import run_json, run_text
    from suite.running import devices, ranks, runs

    ranks.join()
    device = devices.choose_device(args.no_cuda, args.precision)
    workers = devices.decoders(args.workers)
    todo = list_images(args.input_dir)
    refuse_own_targets(todo if args.targeted else [])
    if any(
        "smooth" in defence_names.defence_kinds(arch) for arch in args.arch
    ):  # it may answer no class
        refuse_unlabelled(args.input_dir, todo, targeted=False)
    skip = args.on_error == "skip"
    pool = read_pool(todo, args.seed, workers, skip) if args.admix else None
    gammas, origins = chosen_gammas(args.gamma, args.arch, args.num_steps)
    attacker = make_attacker(args, gammas, device, pool)
    for source in attacker.sources:
        refuse_other_classes(source.name, source.network.classes, todo)
    crafter = Crafter(attacker, args.output_dir, device)

    def batch_size() -> int:
        resumed = None if args.overwrite else runs.resumed_batch_size(args.output_dir)
        return resumed or crafter.find_batch_size()

    run = {
        "options": {name: str(v) if isinstance(v, Path) else v for name, v in vars(args).items()},
        "gamma": attacker.gamma,
        "weights": attacker.digests,
        **runs.machine(device),
        "hooks": attacker.hooks,
        "batch_size": args.batch_size or ranks.first(batch_size),
    }
    if origins:
        run["gamma_from"] = origins
    if pool:
        run["pool"] = runs.listing_digest(todo)
    with runs.output_folder(args.output_dir, run, args.overwrite):
        with Writer(workers, waiting=max(64, 2 * run["batch_size"])) as writer:
            batches = read_batches(
                ranks.share(in_batches(todo, run["batch_size"])),
                workers,
                skipped=crafter.share.skipped if skip else None,
            )
            shown = cli.progress(batches, len(todo), args.print_freq, writer)
            crafter.craft(shown, writer)
        whole = merged_shares(ranks.gather(crafter.share))
        if ranks.rank():
            return
        if not whole.records:
            raise ValueError(f"no readable image in {args.input_dir}")
        rows = [crafted_row(record, args.targeted) for record in whole.records]
        write_labels(args.output_dir, rows)
        run |= {"status": "done"} | run_summary(attacker, whole.records)
        run |= {"size": list(whole.first[1]), "skipped": whole.skipped}
        runs.write_run(args.output_dir, run)

    warn_of_accuracy(run["source"], [r for r in whole.records if r["answer"] is not None])
    warn_of_unchanged(whole.records)
    warn_of_absent_labels(run["labels_predicted"], run["targets_drawn"], args.seed)
    as_text = run_json if args.json else run_text
    print(as_text(run, whole.speeds))
    if whole.skipped:
        names = ", ".join(whole.skipped)
        raise ValueError(f"{len(whole.skipped)} images were not readable: {names}")


def check(args) -> None:
    """Refuse options that do not go together."""
    if args.input_dir is None or args.output_dir is None:
        raise cli.UsageError("--input-dir and --output-dir are needed")
    if args.output_dir.resolve() == args.input_dir.resolve():
        raise cli.UsageError("the output folder is the input folder")
    defence_names.refuse_as_sources(args)
    anywhere = args.rand_init or args.step_size < 0 or args.attack
    settings.refuse_no_levels(args.epsilon, None if anywhere else args.step_size * args.num_steps)
    settings.refuse_wrong(args)


def make_attacker(args, gammas: list[float], device: str, pool=None):
    """Return the attack of the options on its sources, which are on the device."""
    from suite.attack.attacker import Attacker
    from suite.attack.settings import USER_SETTINGS, Attack
    from suite.attack.sources import Source
    from suite.defences.defended import load_defended
    from suite.user_code.user_attack import UserAttack

    named = {name: v for name, v in vars(args).items() if name in Attack.__dataclass_fields__}
    step_size = args.step_size if args.step_size >= 0 else args.epsilon / args.num_steps
    named |= {
        "step_size": step_size,
        "user": UserAttack(args.attack, USER_SETTINGS) if args.attack else None,
    }
    try:
        attack = Attack(**named)
    except ValueError as error:
        raise cli.UsageError(str(error)) from error
    files = defence_names.checkpoints(args.arch, args.checkpoint)
    models = [load_defended(arch, files) for arch in args.arch]
    sources = [
        Source(model.accelerate(args.precision).to(device), gamma, args.hooks, args.branches, arch)
        for arch, model, gamma in zip(args.arch, models, gammas, strict=True)
    ]
    return Attacker(attack, sources, pool)


if __name__ == "__main__":
    cli.run(main, get_parser())
