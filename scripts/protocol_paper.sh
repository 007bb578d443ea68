#!/bin/sh
# The paper's tables: attacks of one step and of several, their combinations, ensembles of sources.
#
#     DATA=ILSVRC2012/val sh scripts/protocol_paper.sh
#     DEMO=1 sh scripts/protocol_paper.sh           # on embedded networks and images, in minutes
set -eu
# shellcheck source=scripts/protocol.sh
. "$(dirname "$0")/protocol.sh"

ONE_STEP="FGSM FGSM+TI FGSM+DI FGSM+SGM"
SEVERAL="PGD TI MI DI SGM"
COMBINED="TI+SGM MI+SGM DI+SGM MI+DI MI+DI+SGM"
: "${SOURCES:=resnet18 resnet34 resnet50 resnet101 resnet152 densenet121 densenet169 densenet201
    resnet152+densenet201}"
: "${TARGETS:=paper}"                             # all ten
: "${OUT:=protocol_paper}"
weights
: "${NUM_IMAGES=5000}"                            # all, if empty
: "${SELECT=--arch $(words "$SOURCES")}"          # that are right; or --all
: "${EPSILON:=16}" "${NUM_STEPS:=10}"
: "${STEP_SIZE:=$(step_size 2)}"
if [ "${DEMO:-}" ]; then : "${ATTACKS:=FGSM+SGM PGD SGM}"; fi
if [ "$NUM_STEPS" = 1 ]; then : "${ATTACKS:=$ONE_STEP}"; fi
: "${ATTACKS:=$ONE_STEP $SEVERAL $COMBINED}"
: "${PUBLISHED=paper paper_rerun}"                # beside our rates; none, if empty

gammas() { # source, attack: one for each network
    for network in $(words "$1"); do
        case $network,$2 in
            densenet*,FGSM*) echo 0.7 ;;
            *,FGSM* | densenet* | efficientnet*) echo 0.5 ;;
            *) echo 0.2 ;;
        esac
    done
}

# shellcheck disable=SC2086
natural "$OUT/natural" $SELECT
for source in $SOURCES; do
    folders=
    for attack in $ATTACKS; do
        craft "$source" "$attack" "$(gammas "$source" "$attack")"
    done
    table "$OUT/$source/table"
done
finish
