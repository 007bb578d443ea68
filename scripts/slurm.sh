#!/bin/sh
# An attack and its evaluation on several machines of a Slurm cluster with a shared file system.
#
#     sbatch scripts/slurm.sh                       # from the repository's folder, images selected
#
# At the time limit the attack is interrupted; submit the same script again and it does the rest.
#SBATCH --job-name=sgm
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=02:00:00
#SBATCH --signal=TERM@60
set -eu

SOURCE=${SOURCE:-resnet152}
GAMMA=${GAMMA:-0.2}
TARGETS=${TARGETS:-vgg19_bn densenet201 senet154}
NATURAL=${NATURAL:-nat_images}
OUT=${OUT:-adv_images}

host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
on_all_gpus() { # script and its options
    srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node "$SLURM_GPUS_ON_NODE" \
        --rdzv-backend c10d --rdzv-endpoint "$host:29500" --rdzv-id "$SLURM_JOB_ID" "$@"
}

on_all_gpus attack_iter.py --input-dir "$NATURAL" --output-dir "$OUT" --arch "$SOURCE" \
    --gamma "$GAMMA"
# The list of names is meant to be split into words.
# shellcheck disable=SC2086
on_all_gpus evaluate.py --input-dir "$OUT" --nat-dir "$NATURAL" --arch $TARGETS \
    --output "$OUT.csv"
