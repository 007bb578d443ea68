#!/bin/sh
# The paper's curves: success over gamma, over the number of steps, and over epsilon.
#
#     DATA=ILSVRC2012/val sh scripts/protocol_paper_curves.sh
#     DEMO=1 sh scripts/protocol_paper_curves.sh    # on embedded networks and images, in minutes
set -eu
# shellcheck source=scripts/protocol.sh
. "$(dirname "$0")/protocol.sh"

if [ "${DEMO:-}" ]; then : "${GAMMAS:=1 0.5}" "${STEPS:=1 4}" "${EPSILONS:=8 16}" "${ATTACKS:=SGM}"; fi
: "${SOURCES:=resnet152 densenet201}"
: "${TARGETS:=vgg19_bn resnet152 densenet201 senet154}"
: "${OUT:=protocol_paper_curves}"
weights
: "${NUM_IMAGES=5000}"                            # all, if empty
: "${SELECT=--arch $(words "$SOURCES")}"          # that are right; or --all
: "${GAMMAS:=1 0.9 0.8 0.7 0.6 0.5 0.4 0.3 0.2 0.1}"
: "${STEPS:=1 2 5 10 20 50}"                      # of 2; one step takes epsilon
: "${EPSILONS:=2 4 8 16 32}"                      # 10 steps of an eighth of it
: "${ATTACKS:=PGD SGM}"                           # over steps and epsilon

gamma() { # source
    case $1 in densenet* | efficientnet*) echo 0.5 ;; *) echo 0.2 ;; esac
}

# shellcheck disable=SC2086
natural "$OUT/natural" $SELECT
for source in $SOURCES; do
    folders='' EPSILON=16 NUM_STEPS=10 STEP_SIZE=2
    for gamma in $GAMMAS; do
        RUNS=$OUT/gamma_$gamma
        craft "$source" SGM "$gamma"
    done
    table "$OUT/$source/gammas"

    folders=
    for NUM_STEPS in $STEPS; do
        RUNS=$OUT/steps_$NUM_STEPS STEP_SIZE=$(step_size 2)
        for attack in $ATTACKS; do
            craft "$source" "$attack" "$(gamma "$source")"
        done
    done
    table "$OUT/$source/steps"

    folders='' NUM_STEPS=10
    for EPSILON in $EPSILONS; do
        RUNS=$OUT/epsilon_$EPSILON STEP_SIZE=$(echo "$EPSILON" | awk '{ print $1 / 8 }')
        for attack in $ATTACKS; do
            craft "$source" "$attack" "$(gamma "$source")"
        done
    done
    table "$OUT/$source/epsilons"
done
finish
