#!/bin/sh
# A sweep of gamma, or another of these scripts, on all GPUs of a Slurm job with a shared file system.
#
#     sbatch --nodes 2 --gpus-per-node 8 --time 2:00:00 scripts/slurm.sh
#     DATA=images sbatch --gpus-per-node 4 scripts/slurm.sh scripts/protocol_transferattack.sh
#
# From the repository's folder. At the time limit the run is interrupted; submit the same command
# again and it does the rest.
#SBATCH --job-name=sgm
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-gpu=8
#SBATCH --signal=TERM@60
set -eu

if [ -f .venv/bin/activate ]; then . .venv/bin/activate; fi
host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 12000))            # another job on this machine has another one
export RUN="srun torchrun --nnodes $SLURM_JOB_NUM_NODES --nproc-per-node $SLURM_GPUS_ON_NODE \
    --rdzv-backend c10d --rdzv-endpoint $host:$port --rdzv-id $SLURM_JOB_ID"
sh "${1:-scripts/sweep_gamma.sh}"
