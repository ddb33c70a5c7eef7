"""The wandb package reads the offline run: its own protobuf classes parse every record, and `wandb sync` finds it."""
import json
import os
import struct
import subprocess
import sys
import zlib

from interop import check, run
from wandb.proto import wandb_internal_pb2 as pb


def records(path):
    """LevelDB's log format, as wandb's core writes it."""
    data, at, parts = path.read_bytes(), 7, b""
    assert data[:7] == b":W&B\xe1\xbe\x00", data[:7]
    while at < len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        crc, length, kind = struct.unpack("<IHB", data[at : at + 7])
        piece = data[at + 7 : at + 7 + length]
        assert zlib.crc32(bytes([kind]) + piece) == crc, f"checksum at {at}"
        parts += piece
        at += 7 + length
        if kind in (1, 4):
            record = pb.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def run_file(folder):
    (path,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    return path


@check("records: Weights & Biases parses the offline run")
def parse(folder):
    path = run_file(folder)
    all_records = list(records(path))
    assert [r.num for r in all_records] == list(range(1, len(all_records) + 1))
    started = all_records[1].run
    assert (started.project, started.entity, started.run_group, started.display_name) == ("nibble", "me", "tests", "interop")
    assert started.run_id == path.stem.removeprefix("run-")
    config = {item.key: json.loads(item.value_json) for item in started.config.update}
    assert config["max_length"] == 1024 and len(config["chat_template"]) == 40000 and "hub_token" not in config
    history = json.loads((folder / "history.json").read_text())
    rows = [r.history for r in all_records if r.WhichOneof("record_type") == "history"]
    assert len(rows) == len(history)
    for i, (row, entry) in enumerate(zip(rows, history)):
        values = {item.key: json.loads(item.value_json) for item in row.item}
        assert row.step.num == values["_step"] == i
        assert values["train/global_step"] == entry["step"]
        if "grad_norm" in entry:
            assert values["train/grad_norm"] == entry["grad_norm"]
    assert all_records[-1].WhichOneof("record_type") == "exit"
    return f"{len(all_records)} records"


@check("records: `wandb sync` takes the offline run")
def sync(folder):
    env = {**os.environ, "WANDB_SILENT": "false", "WANDB_DIR": str(folder)}
    command = [sys.executable, "-m", "wandb", "sync", "--dry-run", str(run_file(folder).parent)]
    said = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=120)
    assert said.returncode == 0 and "1 run" in said.stdout + said.stderr, said.stdout + said.stderr


run()
