#!/usr/bin/env python3
"""Times PyTorch Distributed Checkpoint: durable save, stall of an asynchronous save, load from the disk.

Parameters and two Adam slots as DTensors, each sharded over the ranks, on CPU with gloo. Prints one JSON object with
seconds of the slowest rank, one for each round after one of warm-up:
  save          dcp.save with sync_files (its default): every file is synced
  save_durable  the same, and then what it leaves out: the folder and the one above it are synced
  stall         until dcp.async_save returns; background: until its future is done
  load          dcp.load, after the files were dropped from the page cache; load_warm: once more
"""
import argparse
import json
import os
import shutil
import time
import warnings

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

KINDS = ("param", "exp_avg", "exp_avg_sq")


def make_state(mesh, options):
    rank, ranks = dist.get_rank(), dist.get_world_size()
    elems = options.mib * (1 << 20) // 4 // len(KINDS) // options.tensors
    rows = elems // 1024 // ranks * ranks
    state = {}
    for kind in KINDS:
        for index in range(options.tensors):
            local = torch.arange(rows // ranks * 1024, dtype=torch.float32).remainder_(1021).reshape(-1, 1024) + rank
            state[f"{kind}.{index}"] = DTensor.from_local(local, mesh, [Shard(0)], run_check=False)
    return state


def sync_folder(path):
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def drop_from_cache(folder):
    for name in os.listdir(folder):
        fd = os.open(os.path.join(folder, name), os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def slowest(seconds):
    worst = torch.tensor(seconds, dtype=torch.float64)
    dist.all_reduce(worst, op=dist.ReduceOp.MAX)
    return worst.item()


def timed(times, name, body):
    dist.barrier()
    start = time.perf_counter()
    result = body()
    times.setdefault(name, []).append(slowest(time.perf_counter() - start))
    return result


def remove(path):
    dist.barrier()
    if dist.get_rank() == 0:
        shutil.rmtree(path, ignore_errors=True)
    dist.barrier()


def writer(path, options):
    return FileSystemWriter(path, thread_count=options.threads, sync_files=True)


def run_round(state, options, times, background):
    path = os.path.join(options.dir, "dcp")
    start = time.perf_counter()
    timed(times, "save", lambda: dcp.save(state, storage_writer=writer(path, options)))
    if dist.get_rank() == 0:
        sync_folder(path)
        sync_folder(options.dir)
    times.setdefault("save_durable", []).append(slowest(time.perf_counter() - start))
    drop_from_cache(path)
    for name in ("load", "load_warm"):
        for tensor in state.values():
            tensor.to_local().fill_(-1.0)
        timed(times, name, lambda: dcp.load(state, storage_reader=FileSystemReader(path)))
        first = next(iter(state.values())).to_local()
        assert first[0, 1].item() == 1.0 + dist.get_rank(), "the state came back changed"
    remove(path)
    arguments = {"storage_writer": writer(path, options), "process_group": background}
    future = timed(times, "stall", lambda: dcp.async_save(state, **arguments))
    future = getattr(future, "upload_completion", future)
    timed(times, "background", future.result)
    remove(path)


def rank_main(rank, options):
    warnings.filterwarnings("ignore")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(options.port), RANK=str(rank),
                      WORLD_SIZE=str(options.ranks))
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank % len(os.sched_getaffinity(0))]}
                         if options.pin else os.sched_getaffinity(0))
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (options.ranks,))
    state = make_state(mesh, options)
    # A group of its own: the save's collectives on another thread would meet ours in the default one.
    background = dist.new_group(backend="gloo")
    times = {}
    for _ in range(options.rounds + 1):
        run_round(state, options, times, background)
    if rank == 0:
        print(json.dumps({"peer": f"torch {torch.__version__} DCP", "mib": options.mib, "ranks": options.ranks,
                          "threads": options.threads,
                          "seconds": {name: values[1:] for name, values in times.items()}}))
    dist.destroy_process_group()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", required=True, help="an existing folder on the disk to measure")
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--tensors", type=int, default=16, help="of each kind")
    parser.add_argument("--threads", type=int, default=1, help="writer threads of a rank")
    parser.add_argument("--pin", action="store_true", help="a core a rank, as mpirun pins ours")
    parser.add_argument("--port", type=int, default=29517)
    options = parser.parse_args()
    mp.spawn(rank_main, args=(options,), nprocs=options.ranks)


if __name__ == "__main__":
    main()
