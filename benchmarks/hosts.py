#!/usr/bin/env python3
"""Several hosts on this machine, joined by links of a given rate, and a command on the first of them.

    benchmarks/hosts.py --hosts 2 --rate 1gbit -- mpirun -n 2 build/release/bin/lockstep train RECIPE.toml

Each host is a set of namespaces of its own (network, name, shared memory, processors), joined to the others by a
bridge; nothing of this machine's own network is touched, and all of it is gone when the command ends. `mpirun` finds
the hosts by itself, one rank on each (or --slots): this script sets Open MPI's variables for that. HOSTS in the environment of the
command is their names, by comma. Needs root, or a user who may make namespaces; exit status 77 where neither is so.
"""
import argparse
import os
import pathlib
import shlex
import subprocess
import sys

NET = "10.91.7"
CANNOT = 77
INSIDE = "LOCKSTEP_HOSTS_INSIDE"
# Open MPI starts its daemon on another host by "AGENT HOST COMMAND..."; ours enters that host's namespaces.
AGENT = """#!/bin/sh
host=$1; shift
read -r pid cpus < {folder}/$host
exec taskset -c "$cpus" nsenter --target "$pid" --net --uts --ipc --mount sh -c "cd '$PWD'; $*"
"""


def run(*command):
    subprocess.run(command, check=True)


def enter_namespaces():
    """Runs this script again where it may make hosts; what it makes there ends with it."""
    unshare = ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--net", "--pid", "--mount", "--uts",
               "--ipc", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*unshare, "mount", "-t", "tmpfs", "none", "/run"], stderr=subprocess.DEVNULL).returncode != 0:
        print("this machine lets nobody make namespaces", file=sys.stderr)
        return CANNOT
    return subprocess.run([*unshare, sys.executable, *sys.argv], env={**os.environ, INSIDE: "1"}).returncode


def cpus_of_host(index, num_hosts):
    """The processors are dealt out, so that hosts do not take time from each other where there are enough."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < num_hosts:
        return [cpus[index % len(cpus)]]
    share = len(cpus) // num_hosts
    return cpus[index * share:(index + 1) * share]


def burst_bytes(rate):
    """What an idle link may let through at once: 2 ms of its rate, and a few packets at least."""
    for unit, bits_per_s in (("gbit", 1e9), ("mbit", 1e6), ("kbit", 1e3)):
        if rate.endswith(unit):
            return max(int(float(rate.removesuffix(unit)) * bits_per_s / 8 * 2e-3), 16384)
    sys.exit(f"--rate {rate}: give it in gbit, mbit or kbit")


def make_host(folder, name, index, options):
    holder = subprocess.Popen(["unshare", "--net", "--uts", "--ipc", "--mount", "sh", "-c",
                               f"hostname {name} && mount -t tmpfs none /dev/shm && echo ready && exec sleep infinity"],
                              stdout=subprocess.PIPE, text=True)
    if holder.stdout.readline() != "ready\n":
        sys.exit(f"{name}: its namespaces can't be made")
    inside = ["nsenter", "--target", str(holder.pid), "--net"]
    run("ip", "link", "add", f"v{index}", "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid))
    run("ip", "link", "set", f"v{index}", "master", "br0", "up")
    run(*inside, "ip", "addr", "add", f"{NET}.{index + 1}/24", "dev", "eth0")
    for device in ("eth0", "lo"):
        run(*inside, "ip", "link", "set", device, "up")
    if options.rate != "none":
        # Both ways: what a host sends, and what the bridge sends to it.
        shaped = ["root", "tbf", "rate", options.rate, "burst", f"{burst_bytes(options.rate)}b", "latency", "50ms"]
        run(*inside, "tc", "qdisc", "add", "dev", "eth0", *shaped)
        run("tc", "qdisc", "add", "dev", f"v{index}", *shaped)
    cpus = ",".join(map(str, cpus_of_host(index, options.hosts)))
    pathlib.Path(folder, name).write_text(f"{holder.pid} {cpus}\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--rate", default="1gbit", help="of each link, each way, as tc writes it (100mbit, 10gbit; none)")
    parser.add_argument("--slots", type=int, default=1, help="ranks that mpirun puts on a host before it goes to the next")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="after --")
    options = parser.parse_args()
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command or options.hosts < 1:
        parser.error("give a command after --, and at least one host")
    if INSIDE not in os.environ:
        return enter_namespaces()
    run("mount", "--make-rprivate", "/")
    run("mount", "-t", "tmpfs", "none", "/run")
    folder = "/run/hosts"
    os.makedirs(folder)
    run("ip", "link", "add", "br0", "type", "bridge")
    run("ip", "link", "set", "br0", "up")
    names = [f"host{index + 1}" for index in range(options.hosts)]
    pathlib.Path(folder, "etc-hosts").write_text(
        "127.0.0.1 localhost\n" + "".join(f"{NET}.{i + 1} {name}\n" for i, name in enumerate(names)))
    run("mount", "--bind", f"{folder}/etc-hosts", "/etc/hosts")
    for index, name in enumerate(names):
        make_host(folder, name, index, options)
    agent = pathlib.Path(folder, "agent")
    agent.write_text(AGENT.format(folder=folder))
    agent.chmod(0o755)
    environment = {
        **os.environ, "HOSTS": ",".join(names), "OMPI_MCA_plm_rsh_agent": str(agent),
        "OMPI_MCA_orte_default_hostfile": f"{folder}/hostfile", "OMPI_MCA_btl_tcp_if_include": f"{NET}.0/24",
        "OMPI_MCA_oob_tcp_if_include": f"{NET}.0/24", "OMPI_MCA_hwloc_base_binding_policy": "none",
        "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }
    pathlib.Path(folder, "hostfile").write_text("".join(f"{name} slots={options.slots}\n" for name in names))
    return subprocess.run([str(agent), names[0], "exec " + shlex.join(command)], env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
