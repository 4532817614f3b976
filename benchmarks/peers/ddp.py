#!/usr/bin/env python3
"""PyTorch DistributedDataParallel over gloo on the CPU, or nccl on GPUs, as a peer: the ConvNet of launch/recipes/fashion_mnist.toml, or
an MLP of 49.1M parameters over a made-up table.

Each rank works one micro-batch a step; the samples lie in memory as normalised floats before the clock starts (the
kindest loader there is). Prints one JSON object: images/s of each window of steps, and their median; milliseconds of a step.

    python benchmarks/peers/ddp.py --ranks 2 --micro-batch 64 --best
    mpirun -n 2 python benchmarks/peers/ddp.py --model mlp --best      (ranks on several hosts: MASTER_ADDR, GLOO_SOCKET_IFNAME)
"""
import argparse
import gzip
import json
import os
import socket
import statistics
import sys
import time

import numpy
import torch
import torch.distributed
import torch.multiprocessing
import torch.nn.functional as functional

FOLDER = "/usr/share/datasets/fashion-mnist"
UNDER_MPIRUN = "OMPI_COMM_WORLD_RANK" in os.environ


def options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=2, help="to start here; under mpirun it says how many")
    parser.add_argument("--model", choices=["convnet", "mlp"], default="convnet")
    parser.add_argument("--hidden", type=int, nargs="+", default=[7000, 7000], help="widths of the MLP's hidden layers")
    parser.add_argument("--bucket-cap-mb", type=int, default=25, help="DDP's own default is 25")
    parser.add_argument("--micro-batch", type=int, default=64, help="images a rank works in a step")
    parser.add_argument("--warm-up", type=int, default=20, help="steps before the clock starts")
    parser.add_argument("--windows", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40, help="steps of a window")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--channels-last", action="store_true", help="weights and images")
    parser.add_argument("--fused", action="store_true", help="fused AdamW")
    parser.add_argument("--bucket-view", action="store_true", help="gradient_as_bucket_view")
    parser.add_argument("--pin", action="store_true", help="one core a rank, as mpirun does for two ranks")
    parser.add_argument("--best", action="store_true", help="channels-last, fused, bucket views and pinned")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="cuda: nccl, rank i on device i or the only one")
    parser.add_argument("--data", default=FOLDER, help="folder of the IDX files")
    chosen = parser.parse_args()
    if chosen.best:
        chosen.channels_last = chosen.fused = chosen.bucket_view = chosen.pin = True
    return chosen


class ConvNet(torch.nn.Module):
    """421,642 parameters; images [n, 1, 28, 28] to logits [n, 10]."""

    def __init__(self, dropout):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(1, 32, 3, padding=1)
        self.conv2 = torch.nn.Conv2d(32, 64, 3, padding=1)
        self.fc1 = torch.nn.Linear(64 * 7 * 7, 128)
        self.fc2 = torch.nn.Linear(128, 10)
        self.dropout = dropout

    def forward(self, images):
        x = functional.max_pool2d(functional.relu(self.conv1(images)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        x = functional.relu(self.fc1(x.flatten(1)))
        if self.dropout > 0:
            x = functional.dropout(x, self.dropout, self.training)
        return self.fc2(x)


def make_mlp(hidden):
    """Rows [n, 10] to logits [n, 2]; with hidden layers of 7000 and 7000, 49,098,002 parameters."""
    layers = []
    for inputs, outputs in zip([10, *hidden], hidden):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(hidden[-1], 2))


def read_idx(path, header_bytes):
    with gzip.open(path) as file:
        return numpy.frombuffer(file.read(), numpy.uint8, offset=header_bytes)


def load(chosen):
    if chosen.model == "mlp":
        rows = torch.randn(8000, 10, generator=torch.Generator().manual_seed(1))
        return rows, (rows[:, 0] > 0).long()
    images = read_idx(f"{chosen.data}/train-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28)
    labels = read_idx(f"{chosen.data}/train-labels-idx1-ubyte.gz", 8)
    images = torch.from_numpy(images.astype(numpy.float32) / 255.0)
    if chosen.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    return images, torch.from_numpy(labels.astype(numpy.int64))


def rank_main(rank, chosen, port):
    if chosen.pin and not UNDER_MPIRUN:  # mpirun has bound its ranks, or hosts have
        processors = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {processors[rank % len(processors)]})
    torch.set_num_threads(1)
    torch.manual_seed(1)
    address = os.environ.get("MASTER_ADDR", "127.0.0.1")
    device = torch.device("cpu")
    if chosen.device == "cuda":
        device = torch.device("cuda", rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
        if torch.cuda.device_count() < chosen.ranks:  # NCCL refuses two ranks of one host on one GPU
            os.environ["NCCL_HOSTID"] = f"rank{rank}"
    torch.distributed.init_process_group(
        "gloo" if chosen.device == "cpu" else "nccl", init_method=f"tcp://{address}:{port}", rank=rank, world_size=chosen.ranks)
    images, labels = (values.to(device) for values in load(chosen))
    net = make_mlp(chosen.hidden) if chosen.model == "mlp" else ConvNet(chosen.dropout)
    if chosen.channels_last and chosen.model == "convnet":
        net = net.to(memory_format=torch.channels_last)
    net = net.to(device)
    model = torch.nn.parallel.DistributedDataParallel(net, gradient_as_bucket_view=chosen.bucket_view,
                                                      bucket_cap_mb=chosen.bucket_cap_mb)
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=chosen.fused)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1)).to(device)
    batch = chosen.micro_batch
    rates, step, loss = [], 0, None

    def run(num_steps):
        nonlocal step, loss
        for _ in range(num_steps):
            first = (step * chosen.ranks + rank) * batch % (len(labels) - batch)
            chunk = order[first:first + batch]
            adamw.zero_grad()
            loss = functional.cross_entropy(model(images[chunk]), labels[chunk])
            loss.backward()
            adamw.step()
            step += 1

    run(chosen.warm_up)
    for _ in range(chosen.windows):
        torch.distributed.barrier()
        if chosen.device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        run(chosen.steps)
        if chosen.device == "cuda":
            torch.cuda.synchronize()
        rates.append(chosen.steps * batch * chosen.ranks / (time.perf_counter() - start))
    if rank == 0:
        print(json.dumps({
            "images_per_s": statistics.median(rates),
            "windows_images_per_s": rates,
            "samples_per_step": batch * chosen.ranks,
            "step_ms": batch * chosen.ranks / statistics.median(rates) * 1e3,
            "num_parameters": sum(parameter.numel() for parameter in net.parameters()),
            "final_loss": loss.item(),
            "options": vars(chosen),
            "torch": torch.__version__,
            "malloc": {name: value for name, value in os.environ.items() if name.startswith("MALLOC_")},
        }), flush=True)
    torch.distributed.destroy_process_group()


def main():
    chosen = options()
    if UNDER_MPIRUN:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        chosen.ranks = int(os.environ["OMPI_COMM_WORLD_SIZE"])
        return rank_main(int(os.environ["OMPI_COMM_WORLD_RANK"]), chosen, int(os.environ.get("MASTER_PORT", "29511")))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.multiprocessing.spawn(rank_main, args=(chosen, port), nprocs=chosen.ranks)


if __name__ == "__main__":
    sys.exit(main())
