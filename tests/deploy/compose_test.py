#!/usr/bin/env python3
"""The compose files: valid by the schema of the Compose specification, and what they mount, publish and name is there.

    compose_test.py

Ends with 77 where check-jsonschema or PyYAML is not installed.
"""

import importlib.util
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
for package in ("check_jsonschema", "yaml"):
    if not importlib.util.find_spec(package):
        print(f"skipped, for want of a Python package: {package}")
        sys.exit(77)
import yaml  # noqa: E402


def check_schema(text):
    """Whether the schema has nothing against it, and what was said. Compose's own tags, for what takes another file's place,
    are not the schema's."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text.replace("!reset ", ""))
        file.flush()
        result = subprocess.run([sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", file.name],
                                capture_output=True, text=True, timeout=60)
    return result.returncode == 0, result.stdout + result.stderr


def with_defaults(text):
    """Variables as Compose replaces them where none is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def seconds(text):
    return int(re.fullmatch(r"(\d+)s", text).group(1))


def check_service(name, service, volumes):
    for volume in service["volumes"]:
        source = volume.split(":")[0]
        if source.startswith("."):
            assert (DEPLOY / source).exists(), f"{name}: nothing at {source}"
        else:
            assert source in volumes, f"{name}: no volume {source}"
    for port in service["ports"]:
        assert port.startswith("127.0.0.1:"), f"{name}: port {port} is open to the network"
    assert ":" in service["image"] or "build" in service, f"{name}: no version of {service['image']}"
    assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"], name


def check_names(services):
    """Who asks whom, by the names that Compose gives."""
    target = yaml.safe_load((DEPLOY / "monitoring/prometheus.yml").read_text())["scrape_configs"][0]["dns_sd_configs"][0]
    assert set(target["names"]) <= set(services)
    configuration = yaml.safe_load((DEPLOY / "configurations/container.yaml").read_text())
    assert configuration["metrics"]["listen"].endswith(f":{target['port']}")
    assert services["mambad"]["ports"][0].endswith(configuration["listen"].rpartition(":")[2])
    provisioning = DEPLOY / "monitoring/grafana/provisioning"
    source = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"][0]
    assert re.fullmatch(r"http://(\w+):9090", source["url"]).group(1) in services
    provider = yaml.safe_load((provisioning / "dashboards/mambad.yml").read_text())["providers"][0]
    assert any(volume.split(":")[1] == provider["options"]["path"] for volume in services["grafana"]["volumes"])


def check_router(services):
    """It asks as many replicas as there are, by the names and the port that they have."""
    replicas = services["mambad"]["deploy"]["replicas"]
    urls = [word for word in services["router"]["command"] if word.startswith("grpc://")]
    assert urls == [f"grpc://mambad-mambad-{number}:50051" for number in range(1, replicas + 1)], urls
    assert "--prometheus-host=127.0.0.1" in services["router"]["command"], "the router's metrics are open to the network"
    assert not services["mambad"]["ports"], "replicas cannot share a port of the machine"


def main():
    texts = {path.name: path.read_text() for path in sorted(DEPLOY.glob("compose*.yaml"))}
    assert len(texts) >= 3
    for name, text in texts.items():
        good, said = check_schema(text)
        assert good, f"{name}: {said}"
        text = with_defaults(re.sub(r"(?m)^ *#.*$", "", text))
        assert "$" not in text, f"{name}: a variable without a default"
    assert not check_schema(texts["compose.yaml"].replace("read_only:", "readonly:"))[0], "a wrong key was taken"
    files = {name: yaml.safe_load(with_defaults(text.replace("!reset ", ""))) for name, text in texts.items()}

    compose = files["compose.yaml"]
    for name, service in compose["services"].items():
        check_service(name, service, compose["volumes"])
    check_names(compose["services"])
    drain = re.search(r"^drain_timeout: (\S+)$", (DEPLOY / "mambad.yaml").read_text(), re.M).group(1)
    assert seconds(compose["services"]["mambad"]["stop_grace_period"]) > seconds(drain)
    assert compose["name"] == "mambad", "the router knows the replicas by it"
    check_router(files["compose.openai.yaml"]["services"])
    targets = {name: file["services"]["mambad"].get("build", {}).get("target") for name, file in files.items()}
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", (ROOT / "Dockerfile").read_text(), re.M))
    assert targets["compose.yaml"] == "cpu" and targets["compose.gpu.yaml"] == "gpu" and {"cpu", "gpu"} <= stages
    print(f"{len(files)} files, {len(compose['services'])} services in the first")


if __name__ == "__main__":
    main()
