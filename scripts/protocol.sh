# What the scripts protocol_*.sh have in common; each reads this file and then sets its variables.
# Lists of names and options are split into words:
# shellcheck shell=sh disable=SC2046,SC2086
#
# A source is a network, or several joined by +: an ensemble. An attack is named by its parts: PGD,
# or FGSM for one step of epsilon; MI, NI, VT; DI, TI, SI, Admix, BSR; SGM. So MI+DI+SGM is one.

RUN=${RUN:-python}                                # or torchrun --nproc-per-node 4, for four GPUs
SEEDS=${SEEDS:-0}                                 # several give mean and standard deviation
EXTRA=${EXTRA:-}                                  # options of every attack, as --loss logit
selected='' RUNS='' lacking=''
if [ "${DEMO:-}" ]; then                          # embedded networks, 8 of the embedded images
    : "${DATA:=embedded}" "${NUM_IMAGES=8}" "${SOURCES:=efficientnet_lite0}"
    : "${TARGETS:=efficientnet_lite1 efficientnet_lite2}"
fi
: "${DATA:?set it to a folder of ImageNet images, or DEMO to 1}"

words() { # names joined by +
    echo "$1" | tr + ' '
}

step_size() { # the protocol's, which is no size for one step
    if [ "$NUM_STEPS" = 1 ]; then echo "$EPSILON"; else echo "$1"; fi
}

weights() { # downloads what is missing; leaves out sources and targets without weights
    obtained "$OUT/sources.txt" $(words "$SOURCES")
    kept=
    for source in $SOURCES; do
        for network in $(words "$source"); do
            case " $lacking " in *" $network "*) continue 2 ;; esac
        done
        kept="$kept $source"
    done
    obtained "$OUT/targets.txt" $TARGETS
    if [ "$lacking" ]; then
        SOURCES=$kept TARGETS=$(sed -n 's/^there //p' "$OUT/targets.txt")
    fi
    if [ -z "$kept" ] || [ -z "$TARGETS" ]; then finish; fi
}

obtained() { # file to write, networks; adds to $lacking those without weights
    rm -f "$1"
    python scripts/fetch_weights.py --targets --list "$@" || [ -s "$1" ] || exit 1
    for network in $(sed -n 's/^lacking //p' "$1"); do
        case " $lacking " in *" $network "*) ;; *) lacking="$lacking $network" ;; esac
    done
    lacking=${lacking# }
}

finish() { # the last command of a protocol
    if [ -z "$lacking" ]; then exit 0; fi
    echo "left out, since their weights could not be obtained (see above): $lacking" >&2
    exit 1
}

natural() { # folder to write once, options of select_images.py
    natural=$1
    shift
    case " $selected " in *" $natural "*) return ;; esac
    selected="$selected $natural"
    if [ "$DATA" = embedded ]; then
        set -- --data embedded "$@"
    else
        set -- --input-dir "$DATA" "$@"
    fi
    $RUN select_images.py "$@" --output-dir "$natural" --overwrite \
        ${NUM_IMAGES:+--num-images $NUM_IMAGES}
}

options() { # attack, gamma for each network
    case $1 in
        FGSM*) echo "--num-steps 1 --step-size $EPSILON" ;;
        *) echo "--num-steps $NUM_STEPS --step-size $STEP_SIZE" ;;
    esac
    for part in $(words "$1"); do
        case $part in
            FGSM | PGD) ;;
            MI) echo "--momentum 1" ;;
            NI) echo "--nesterov" ;;
            VT) echo "--variance 20" ;;
            DI) echo "--di-prob 0.5 --di-resize 1.1" ;;
            TI) echo "--ti-kernel 15 --ti-sigma 3" ;;
            SI) echo "--scales 5" ;;
            Admix) echo "--admix 3" ;;
            BSR) echo "--block-shuffle 20" ;;
            SGM) echo "--gamma $2" ;;
            *) echo "$1: no attack has a part $part" >&2 && return 2 ;;
        esac
    done
}

seeds() { # options of attack_iter.py; one seed is enough for what has nothing random
    case " $* " in
        *" --rand-init "* | *" --di-prob "* | *" --variance "* | *" --targeted "*) echo "$SEEDS" ;;
        *" --admix "* | *" --block-shuffle "*) echo "$SEEDS" ;;
        *) echo "${SEEDS%% *}" ;;
    esac
}

craft() { # source, attack, gamma for each network, further options; adds to $folders
    source=$1 attack=$2
    parts=$(options "$2" "$3")
    shift 3
    case $source in *+*) set -- --ensemble gradients "$@" ;; esac
    wanted=$(seeds $parts $EXTRA "$@")
    if [ "$wanted" != "$SEEDS" ]; then
        echo "$attack on $source has nothing random: one run is enough, with seed $wanted" >&2
    fi
    for seed in $wanted; do
        folder=${RUNS:-$OUT}/$source/$attack/$seed
        $RUN attack_iter.py --input-dir "$natural" --output-dir "$folder" \
            --arch $(words "$source") --epsilon "$EPSILON" $parts --seed "$seed" $EXTRA "$@"
        folders="$folders $folder"
    done
}

table() { # file without its suffix: evaluates $folders
    mkdir -p "$(dirname "$1")"
    $RUN evaluate.py --input-dir $folders --nat-dir "$natural" --arch $TARGETS --baseline auto \
        ${PUBLISHED:+--published $PUBLISHED} --output "$1.csv" "$1.md" --plot "$1.png"
}
