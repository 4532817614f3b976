#!/usr/bin/env python3
"""Independent readers on a checkpoint that the C++ test program wrote, and on the same resharded: stock safetensors
opens every shard and the exports, the digest script recomputes the state digest, manifests obey the published schema.
Usage: stock_readers_test.py WRITER DIGEST_SCRIPT SCHEMA WORK_FOLDER"""
import json
import pathlib
import shutil
import subprocess
import sys

import jsonschema
import numpy as np
import safetensors

ELEM_BYTES = {"F32": 4, "BF16": 2, "I64": 8, "U64": 8}


def tensors(path):
    """{name: array}, each element as raw bytes: numpy has no bfloat16."""
    return {name: np.frombuffer(bytes(found["data"]), f"V{ELEM_BYTES[found['dtype']]}").reshape(found["shape"])
            for name, found in safetensors.deserialize(path.read_bytes())}


def read(folder, num_shards, digest_script, schema):
    """The manifest, and {name: array} over all shards."""
    manifest = json.loads((folder / "manifest.json").read_text())
    assert len(manifest["shards"]) == num_shards, manifest["shards"]
    jsonschema.validate(manifest, json.loads(pathlib.Path(schema).read_text()))
    pieces = {}
    for shard in manifest["shards"]:
        found = tensors(folder / shard["file"])
        table = found.pop("block_xxh3_64")
        assert table.dtype.itemsize == 8 and len(table) > 0
        pieces.update(found)
    subprocess.run([sys.executable, digest_script, folder], check=True)
    return manifest, pieces


def flat(space, kind, pieces):
    """All elements of a kind of a space, out of its runs of blocks."""
    runs = [(int(name.rsplit("@")[1].split("-")[0]), data) for name, data in pieces.items()
            if name.startswith(f"{kind}/{space['name']}@")]
    found = np.concatenate([data for _, data in sorted(runs, key=lambda run: run[0])])
    assert len(found) == space["num_elems"]
    return found


def main(writer, digest_script, schema, work):
    work = pathlib.Path(work)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    folder = pathlib.Path(subprocess.run([writer, work], check=True, capture_output=True, text=True).stdout.strip())
    manifest, pieces = read(folder, 3, digest_script, schema)
    resharded, other_pieces = read(work / "resharded", 7, digest_script, schema)
    assert resharded["state_digest"] == manifest["state_digest"]

    exported = tensors(work / "all.safetensors")
    assert set(tensors(work / "params.safetensors")) < set(exported)
    for space in manifest["spaces"]:
        for kind in space["kinds"]:
            values = flat(space, kind, pieces)
            assert flat(space, kind, other_pieces).tobytes() == values.tobytes(), (space["name"], kind)
            for tensor in space["tensors"]:
                shape, order = tensor["shape"], tensor["order"]
                begin = tensor["offset_elems"]
                stored = values[begin:begin + int(np.prod(shape))].reshape([shape[d] for d in order])
                whole = stored.transpose(np.argsort(order)) if shape else stored
                name = tensor["name"] if kind in ("param", "buffer") else f"{kind}/{tensor['name']}"
                assert exported[name].tobytes() == whole.tobytes(), name
    print(len(exported), "tensors in", len(manifest["shards"]), "shards, as the C++ side wrote them")


if __name__ == "__main__":
    main(*sys.argv[1:])
