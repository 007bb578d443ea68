#!/bin/sh
# TransferAttack's table: MI-FGSM and what is put on top of it, images not filtered.
#
#     DATA=images sh scripts/protocol_transferattack.sh     # 1000 images, with their labels
#     DEMO=1 sh scripts/protocol_transferattack.sh  # on embedded networks and images, in minutes
set -eu
# shellcheck source=scripts/protocol.sh
. "$(dirname "$0")/protocol.sh"

if [ "${DEMO:-}" ]; then : "${ATTACKS:=MI MI+SGM}"; fi
: "${ATTACKS:=FGSM PGD MI MI+NI MI+VT MI+NI+VT MI+DI MI+TI MI+SI MI+SI+Admix MI+BSR MI+SGM}"
: "${SOURCES:=torchvision/resnet50@IMAGENET1K_V2}"
: "${TARGETS:=transferattack}"
: "${OUT:=protocol_transferattack}"
weights
: "${NUM_IMAGES=}"                                # all, if empty
: "${EPSILON:=16}" "${NUM_STEPS:=10}"
: "${STEP_SIZE:=$(step_size 1.6)}"
: "${GAMMA:=0.2}"
: "${PUBLISHED=transferattack}"                   # beside our rates; none, if empty

natural "$OUT/natural" --all --whole --bicubic
for source in $SOURCES; do
    folders=
    for attack in $ATTACKS; do
        craft "$source" "$attack" "$GAMMA"
    done
    table "$OUT/$source/table"
done
finish
