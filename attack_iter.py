"""Craft adversarial images on a source network, with the Skip Gradient Method (SGM) if gamma < 1.

    python attack_iter.py --input-dir=nat_images --output-dir=adv_images --arch=densenet201 \
        --gamma=0.5 --epsilon=16 --num-steps=10 --step-size=2

Writes a PNG for each image, labels.csv, and run.json, which says with what they were made. After an
interruption the same command does the rest.
"""

import dataclasses
from pathlib import Path

from suite.attack import settings
from suite.defences import defence_names
from suite.running import cli


def get_parser() -> cli.Parser:
    parser = cli.Parser(description=__doc__.partition("\n")[0])
    # fmt: off
    add = parser.add_argument
    add("--input-dir", type=Path, required=True, help="folder of natural images")
    add("--output-dir", type=Path, required=True, help="folder to write")

    add = parser.add_argument_group("source").add_argument
    add("--arch", nargs="+", default=["efficientnet_lite0"],
        help="source network, or an ensemble; with a defence in front, as in bits:3+resnet50, it "
        "is attacked through the defence")
    cli.add_checkpoint(add)

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

    settings.add_options(parser)
    add = parser.add_argument_group("an attack of your own").add_argument
    add("--attack", metavar="FILE.py:FUNCTION",
        help="function(model, images, labels, epsilon), which gets the other options of attacks "
        "that it has parameters for")

    add = parser.add_argument_group("running").add_argument
    add("--overwrite", action="store_true", help="start afresh in a folder that has images")
    cli.add_running(add)
    add("--print-freq", type=cli.positive_int, default=10,
        help="batches from one line of the log to the next, where there is no progress bar")
    add("--json", action="store_true", help="print the result as JSON")
    # fmt: on
    return parser


def main(args) -> None:
    attack = check(args)

    from suite.attack import crafting, gammas
    from suite.attack.loop import GradientAttack
    from suite.attack.pool import read_pool
    from suite.attack.sources import Sources
    from suite.images.folders import in_batches, list_images
    from suite.images.labels import write_labels
    from suite.images.pictures import Writer, read_batches
    from suite.networks.answer_checks import by_class_names, refuse_other_classes, warn_of_accuracy
    from suite.results.finished import run_json, run_text
    from suite.running import devices, ranks, runs

    ranks.join()
    device = devices.choose_device(args.no_cuda, args.precision)
    workers = devices.decoders(args.workers)
    todo = list_images(args.input_dir)
    check_labels(args, todo)
    chosen, origins = gammas.chosen_gammas(args.gamma, args.arch, args.num_steps)
    attack = attack if args.attack is None else with_user_attack(attack, args.attack)
    sources = Sources(load_sources(args, chosen, device), args.ensemble, args.seed)
    todo = by_class_names({each.name: each.network for each in sources.sources}, todo)
    for source in sources.sources:
        network = source.network
        refuse_other_classes(source.name, network.classes, todo, network.others)
        source.register_sgm()
    pool = read_pool(todo, args.seed, sources, device, workers) if args.admix else None
    loop = GradientAttack(attack, sources.networks, pool)

    run = {
        "options": {name: str(v) if isinstance(v, Path) else v for name, v in vars(args).items()},
        "gamma": sources.gamma,
        "weights": digests(sources.networks, attack),
        **runs.machine(device),
        "hooks": [source.hooks for source in sources.sources],
        "batch_size": ranks.first(lambda: chosen_batch_size(args, device)),
    }
    run |= {"gamma_from": origins} if origins else {}
    run |= {"pool": runs.listing_digest(todo)} if pool else {}
    run |= {"inputs": runs.input_digests(todo, workers)}
    with runs.output_folder(args.output_dir, run, args.overwrite, settings.DEFAULTS) as begin:
        crafter = crafting.Crafter(sources, loop, args.output_dir, device, begin)
        with Writer(workers, waiting=max(64, 2 * run["batch_size"])) as writer:
            batches = ranks.share(in_batches(todo, run["batch_size"]))
            decoded = read_batches(batches, workers, skipped=crafter.share.skipped)
            shown = cli.progress(decoded, len(todo), args.print_freq, writer)
            readable = (batch for batch in shown if batch[0])
            launched = devices.ahead(readable, lambda b: crafter.launch(*b, loop.run), device)
            for batch in launched:
                crafter.collect(batch, writer)
        whole = crafting.merged_shares(ranks.gather(crafter.share))
        if ranks.rank():
            return
        if not whole.records:
            raise ValueError(f"no readable image in {args.input_dir}")
        rows = [crafting.crafted_row(record, args.targeted) for record in whole.records]
        write_labels(args.output_dir, rows)
        run |= {"status": "done"} | crafting.run_summary(sources, attack, whole)
        runs.write_run(args.output_dir, run)

    warn_of_accuracy(run["source"], [r for r in whole.records if r["answer"] is not None])
    crafting.warn_of_unchanged(whole.records)
    crafting.warn_of_absent_labels(run["labels_predicted"], run["targets_drawn"], args.seed)
    cli.print_result((run_json if args.json else run_text)(run, whole.speeds))
    if whole.skipped:
        names = ", ".join(whole.skipped)
        raise ValueError(f"{len(whole.skipped)} images were not readable: {names}")


def check(args) -> settings.Attack:
    """Refuse options that do not go together, and return the attack of the others."""
    if args.output_dir.resolve() == args.input_dir.resolve():
        raise cli.UsageError("the output folder is the input folder")
    defence_names.refuse_as_sources(args)
    return settings.attack_of(args)


def check_labels(args, todo) -> None:
    """Refuse images whose labels or target classes do not go with the attack."""
    from suite.images.image_checks import refuse_own_targets, refuse_unlabelled

    refuse_own_targets(todo if args.targeted else [])
    # A smoothed network may answer no class, by which a missing label could not be replaced.
    if any("smooth" in defence_names.defence_kinds(arch) for arch in args.arch):
        refuse_unlabelled(args.input_dir, todo, targeted=False)


def with_user_attack(attack: settings.Attack, name: str) -> settings.Attack:
    """Return the settings for an attack of the user's, which gets those that it asks for."""
    from suite.user_code.user_attack import UserAttack

    user = UserAttack(name, settings.USER_SETTINGS)
    try:
        return dataclasses.replace(attack, user=user)
    except ValueError as error:
        raise cli.UsageError(str(error)) from error


def load_sources(args, gammas: list[float], device: str) -> list:
    """Return the source networks on the device."""
    from suite.attack.sources import Source
    from suite.defences.defended import load_defended

    files = defence_names.checkpoints(args.arch, args.checkpoint)
    models = [load_defended(arch, files) for arch in args.arch]
    return [
        Source(model.accelerate(args.precision).to(device), gamma, args.hooks, args.branches, arch)
        for arch, model, gamma in zip(args.arch, models, gammas, strict=True)
    ]


def digests(networks, attack: settings.Attack) -> dict[str, str]:
    """Return the SHA-256 of each file that networks, and an attack of the user's, come from."""
    made_of = [*networks, attack.user] if attack.user else networks
    return {file: digest for each in made_of for file, digest in each.digests.items()}


def chosen_batch_size(args, device: str) -> int:
    """Return the number of images attacked together; a resumed run keeps its own."""
    from suite.running import devices, runs

    resumed = {} if args.overwrite else runs.read_run(args.output_dir)
    return devices.batch_size(device, args.batch_size or resumed.get("batch_size"))


if __name__ == "__main__":
    cli.run(main, get_parser())
