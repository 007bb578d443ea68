#!/bin/sh
# The tables of SGM's TPAMI version on networks without ResNets' blocks: ViT, MLP-Mixer, Inception.
#
#     DATA=ILSVRC2012/val sh scripts/protocol_tpami.sh
#     DEMO=1 sh scripts/protocol_tpami.sh           # on embedded networks and images, in minutes
set -eu
# shellcheck source=scripts/protocol.sh
. "$(dirname "$0")/protocol.sh"

: "${SOURCES:=tpami/vit_base_patch16_224 tpami/mixer_b16_224 inceptionv3}"
: "${TARGETS:=tpami}"
: "${OUT:=protocol_tpami}"
weights
: "${ATTACKS:=PGD SGM}"
: "${NUM_IMAGES=5000}"                            # all, if empty
: "${SELECT=--arch $(words "$SOURCES")}"          # that are right; or --all
: "${EPSILON:=16}" "${NUM_STEPS:=10}"
: "${STEP_SIZE:=$(step_size 2)}"
EXTRA="--rand-init $EXTRA"

# shellcheck disable=SC2086
natural "$OUT/natural" $SELECT
for source in $SOURCES; do
    folders='' natural=$OUT/natural
    if [ "$source" = inceptionv3 ]; then          # whose images are enlarged before the attack
        natural=$OUT/natural_299
        $RUN select_images.py --input-dir "$OUT/natural" --output-dir "$natural" --overwrite \
            --all --whole --size 299
    fi
    for attack in $ATTACKS; do
        case $source,$attack in
            inceptionv3,*SGM) craft "$source" "$attack" 0.6 --branches 'Mixed.*\.bn' ;;
            *) craft "$source" "$attack" 0.775 ;; # the square root of their 0.6, on each module
        esac
    done
    table "$OUT/$source/table"
done
finish
