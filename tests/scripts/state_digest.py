#!/usr/bin/env python3
"""Recomputes the state digest of a checkpoint folder from its files alone (core/DIGEST.md).
Usage: state_digest.py [--params] FOLDER    Prints the digest; exit 1 when the manifest names another one."""
import json
import pathlib
import struct
import sys

import xxhash

BLOCK_ELEMS = 16384
ELEM_BYTES = {"F32": 4, "F64": 8, "BF16": 2, "F16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "U64": 8, "BOOL": 1}


def layout_text(spaces):
    text = "lockstep-layout 1\n"
    for space in spaces:
        text += f"space {space['name']} {space['num_elems']}\n"
        for t in space["tensors"]:
            shape, order = (",".join(map(str, t[key])) or "-" for key in ("shape", "order"))
            text += f"tensor {t['offset_elems']} {shape} {order} {t['name']}\n"
            text += "".join(f"alias {alias}\n" for alias in t["aliases"])
    return text


def block_hashes(folder, manifest):
    """{(kind/space, block): hash}, from the tensors named <kind>/<space>@<first>-<end> of all shards."""
    hashes = {}
    for shard in manifest["shards"]:
        with open(folder / shard["file"], "rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
            data_start = file.tell()
            for name, tensor in header.items():
                if "@" not in name:
                    continue  # the metadata and the table of block hashes
                begin, end = tensor["data_offsets"]
                kind, blocks = name.rsplit("@", 1)
                first, last = map(int, blocks.split("-"))
                file.seek(data_start + begin)
                for block in range(first, last):
                    size = min(BLOCK_ELEMS * ELEM_BYTES[tensor["dtype"]], end - begin)
                    assert (kind, block) not in hashes and size > 0, f"{name} overlaps or is short"
                    hashes[kind, block] = xxhash.xxh3_64_intdigest(file.read(size))
                    begin += size
    return hashes


def digest(folder, params_only=False):
    manifest = json.loads((folder / "manifest.json").read_bytes())
    hashes = block_hashes(folder, manifest)
    stream = f"lockstep-{'params' if params_only else 'state'} 1\n{layout_text(manifest['spaces'])}".encode()
    scalars = {} if params_only else manifest["scalars"]
    for name, text in sorted((n.encode(), t.encode()) for n, t in scalars.items()):
        stream += b"scalar %d %d\n%s\n%s\n" % (len(name), len(text), name, text)
    for space in manifest["spaces"]:
        for kind in (f"{k}/{space['name']}" for k in space["kinds"] if not params_only or k in ("param", "buffer")):
            num_blocks = -(-space["num_elems"] // BLOCK_ELEMS)
            stream += f"blocks {kind} {num_blocks}\n".encode()
            stream += b"".join(struct.pack("<Q", hashes[kind, block]) for block in range(num_blocks))
    return xxhash.xxh3_128_hexdigest(stream), manifest["state_digest"]


if __name__ == "__main__":
    params_only = "--params" in sys.argv
    computed, recorded = digest(pathlib.Path(sys.argv[-1]), params_only)
    print(computed)
    sys.exit(0 if params_only or computed == recorded else 1)
