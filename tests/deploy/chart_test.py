#!/usr/bin/env python3
"""The Helm chart, by Helm's own engine and Kubernetes' own schemas: what it makes of its defaults and of values that turn
everything on is valid, hangs together, and configures mambad with what mambad takes; wrong values are refused.

    chart_test.py --mambad PROGRAM --mambactl PROGRAM --models FOLDER

Ends with 77 where helm-python-sdk or kubernetes-validate is not installed.
"""

import argparse
import copy
import json
import logging
import pathlib
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "deploy"))
try:
    import helm_python
    import kubernetes_validate
    import yaml
except ImportError as missing:
    print(f"skipped, for want of a Python package: {missing}")
    sys.exit(77)
import configuration_test  # noqa: E402  (beside this file)

CHART = ROOT / "deploy" / "chart"
MONITORING = ROOT / "deploy" / "monitoring"
OLDEST, NEWEST = "1.30", "1.34"
# Kinds of operators, of which Kubernetes has no schema; what is wanted of them is checked below.
FOREIGN_KINDS = {"ServiceMonitor", "PrometheusRule", "ScaledObject"}


class Rendered:
    """The objects that the chart makes of these values."""

    def __init__(self, chart, values, name="stories"):
        self.texts = chart.render(values, name=name, namespace="serving")
        self.objects = [item for path, text in self.texts.items() if not path.endswith("NOTES.txt")
                        for item in yaml.safe_load_all(text) if item]

    def one(self, kind, suffix=""):
        found = [item for item in self.objects if item["kind"] == kind and item["metadata"]["name"].endswith(suffix)]
        assert found, f"no {kind}{suffix} among {[item['kind'] for item in self.objects]}"
        return found[0]

    def workload(self):
        return next(item for item in self.objects if item["kind"] in ("Deployment", "StatefulSet"))

    def kinds(self):
        return {item["kind"] for item in self.objects}


def check_schemas(rendered):
    for item in rendered.objects:
        if item["kind"] in FOREIGN_KINDS:
            continue
        for version in (OLDEST, NEWEST):
            kubernetes_validate.validate(item, version, strict=True)
    names = [(item["kind"], item["metadata"]["name"]) for item in rendered.objects]
    assert len(names) == len(set(names)), f"two of one name: {names}"


def check_references(rendered):
    """What names something else names something that is there."""
    workload = rendered.workload()
    pod, labels = workload["spec"]["template"]["spec"], workload["spec"]["template"]["metadata"]["labels"]
    container = pod["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for item in rendered.objects:
        spec = item.get("spec", {})
        selector = {"Service": lambda: spec["selector"], "Deployment": lambda: spec["selector"]["matchLabels"],
                    "StatefulSet": lambda: spec["selector"]["matchLabels"],
                    "PodDisruptionBudget": lambda: spec["selector"]["matchLabels"],
                    "NetworkPolicy": lambda: spec["podSelector"]["matchLabels"]}.get(item["kind"])
        if selector:
            assert selector().items() <= labels.items(), f"{item['kind']} selects {selector()}, pods have {labels}"
        if item["kind"] == "Service":
            assert all(port["targetPort"] in ports for port in spec["ports"])
        if "scaleTargetRef" in spec:
            target = spec["scaleTargetRef"]
            assert (target["kind"], target["name"]) == (workload["kind"], workload["metadata"]["name"])
            assert "replicas" not in workload["spec"], "two would decide how many pods there are"
    volumes = [volume["name"] for volume in pod["volumes"]]
    volumes += [claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])]
    assert sorted(mount["name"] for mount in container["volumeMounts"]) == sorted(volumes)
    # The test's pod is not one that the service sends calls to.
    for item in rendered.objects:
        if item["kind"] == "Pod":
            assert not workload["spec"]["selector"]["matchLabels"].items() <= item["metadata"]["labels"].items()


def check_pod(rendered, configuration):
    workload = rendered.workload()
    pod = workload["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    closed = container["securityContext"]
    assert closed["readOnlyRootFilesystem"] and not closed["allowPrivilegeEscalation"]
    assert closed["capabilities"] == {"drop": ["ALL"]} and not pod["automountServiceAccountToken"]
    assert pod["terminationGracePeriodSeconds"] > int(configuration["drain_timeout"].rstrip("s")) + 5
    # kubelet's probe by gRPC knows no TLS.
    kind = "httpGet" if "tls" in configuration else "grpc"
    assert all(kind in container[probe] for probe in ("startupProbe", "readinessProbe", "livenessProbe"))
    assert ("nvidia.com/gpu" in container["resources"]["limits"]) == (configuration["compute"]["device"] == "cuda")


def check_configuration(rendered, options, places, folder):
    """mambad takes it; returns it."""
    text = rendered.one("ConfigMap")["data"]["mambad.yaml"]
    configuration = yaml.safe_load(text)
    for path, instead in places.items():
        text = text.replace(path, instead)
    code, said = configuration_test.check(options.mambad, text, folder)
    assert code == 0, f"mambad --check-config: {said}\n{text}"
    return configuration


def check_monitoring(rendered):
    assert rendered.one("PrometheusRule")["spec"] == yaml.safe_load((MONITORING / "alerts.yml").read_text())
    dashboard = rendered.one("ConfigMap", "-dashboard")
    shipped = (MONITORING / "grafana/dashboards/mambad.json").read_text()
    assert json.loads(dashboard["data"]["mambad.json"]) == json.loads(shipped)
    monitor, headless = rendered.one("ServiceMonitor"), rendered.one("Service", "-headless")
    labels = headless["metadata"]["labels"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert not monitor["spec"]["selector"]["matchLabels"].items() <= rendered.one("Service")["metadata"]["labels"].items()
    assert labels[monitor["spec"]["jobLabel"]] == "mambad", "alerts and dashboard know the job by this name"
    assert monitor["spec"]["endpoints"][0]["port"] in [port["name"] for port in headless["spec"]["ports"]]


def check_refusals(chart, defaults):
    """Wrong values are refused, each for what is wrong; every value that there is has a schema."""
    for values, word in (({"gpus": 1}, "gpus"), ({"gpu": {"enabled": "yes"}}, "gpu/enabled"), ({"replicas": -1}, "replicas"),
                         ({"service": {"typ": "x"}}, "typ"), ({"autoscaling": {"kind": "vpa"}}, "autoscaling/kind"),
                         ({"autoscaling": {"kind": "keda"}}, "autoscaling.prometheus"),
                         ({"allowInsecure": False}, "tls.secret"),
                         ({"allowInsecure": False, "tls": {"secret": "a"}}, "auth.secret")):
        try:
            chart.render(values, name="stories", namespace="serving")
        except helm_python.HelmError as error:
            assert word in str(error), f"{values}: {error}"
        else:
            raise AssertionError(f"{values} were taken")

    def walk(value, schema, path):
        for key, inner in value.items():
            assert key in schema.get("properties", {}), f"values.schema.json: nothing about {path}{key}"
            if isinstance(inner, dict) and "properties" in schema["properties"][key]:
                walk(inner, schema["properties"][key], f"{path}{key}.")

    walk(defaults, json.loads((CHART / "values.schema.json").read_text()), "")


def main():
    parser = argparse.ArgumentParser()
    for name in ("--mambad", "--mambactl", "--models"):
        parser.add_argument(name, required=True)
    options = parser.parse_args()
    logging.disable(logging.INFO)
    found = [item for item in helm_python.lint(str(CHART))["messages"] if item["severity"] > 1]
    assert not found, found
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    everything = yaml.safe_load((ROOT / "tests/deploy/chart_values.yaml").read_text())
    keda = copy.deepcopy(everything) | {"autoscaling": {"kind": "keda", "prometheus": "http://prometheus:9090"}}
    with tempfile.TemporaryDirectory() as name, helm_python.Chart.load(str(CHART)) as chart:
        folder = pathlib.Path(name)
        places = configuration_test.place_files(folder, options.mambactl, options.models)
        for title, values, wanted in (
                ("defaults", {}, {"Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy", "ConfigMap"}),
                ("a GPU", {"gpu": {"enabled": True}}, {"Deployment"}),
                ("everything", everything, {"StatefulSet", "HorizontalPodAutoscaler", "ServiceMonitor", "PrometheusRule"}),
                ("KEDA", keda, {"ScaledObject"})):
            rendered = Rendered(chart, values)
            assert wanted <= rendered.kinds(), f"{title}: {rendered.kinds()}"
            check_schemas(rendered)
            check_references(rendered)
            check_pod(rendered, check_configuration(rendered, options, places, folder))
            if "metrics" in values:
                check_monitoring(rendered)
            print(f"{title}: {len(rendered.objects)} objects are good")
        check_refusals(chart, defaults)


if __name__ == "__main__":
    main()
