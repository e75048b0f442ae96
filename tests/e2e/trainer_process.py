"""The trainer as a program, and what it writes."""

import json
import os
import pathlib
import socket
import subprocess


def tensors(path):
    """The bytes of every tensor of a safetensors file, by name."""
    data = path.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    places = {name: place["data_offsets"] for name, place in json.loads(data[8:begin]).items() if name != "__metadata__"}
    return {name: data[begin + first:begin + last] for name, (first, last) in places.items()}


class Trainer:
    """Runs commands in one folder; a configuration is written as JSON, which is YAML too."""

    def __init__(self, program, folder):
        self.program = program
        self.folder = pathlib.Path(folder)
        # Threads that wait busily for each other are slower than one where cores are few and shared.
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def config(self, name, settings):
        path = self.folder / f"{name}.yaml"
        path.write_text(json.dumps(settings, indent=1), encoding="utf-8")
        return path

    def start(self, command, path, **variables):
        return subprocess.Popen([self.program, command, "--config", str(path)], cwd=self.folder, text=True,
                                env={**self.environment, **variables}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def start_two(self, command, path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        return [self.start(command, path, RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
                for rank in range(2)]

    def run(self, command, settings, name=None):
        process = self.start(command, self.config(name or command, settings))
        output, errors = process.communicate(timeout=600)
        if process.returncode != 0:
            raise AssertionError(f"trainer {command}: {process.returncode}\n{errors}")
        return output, errors

    def refused(self, command, settings):
        """The one line that a command ends with."""
        process = self.start(command, self.config("refused", settings))
        _, errors = process.communicate(timeout=600)
        lines = [line for line in errors.splitlines() if line.startswith("trainer: error: ")]
        assert process.returncode == 2 and len(lines) == 1, f"{process.returncode}\n{errors}"
        return lines[0]

    def metrics(self, run):
        lines = (self.folder / run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def curve(self, run):
        """The metrics without what the clock tells."""
        return [{name: value for name, value in line.items() if name != "tokens_per_second"} for line in self.metrics(run)]

    def weights(self, model):
        return tensors(self.folder / model / "model.safetensors")
