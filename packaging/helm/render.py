"""Renders a chart with Helm's engine, and validates what comes out; `cargo xtask test charts` runs it.

    render.py CHART VERSION... < cases.json > results.json

A case is `{"name": ..., "values": {...}}`. Of each, the result has `lint` (messages but for information),
`documents`, `invalid` (what a Kubernetes of one of the versions would refuse), and `error` where the
chart does not render. What is judged is not here, but in xtask.
"""

import json
import sys

import helm_python
import kubernetes_validate
import yaml

INFORMATION = 1
# Kinds of operators, whose schemas are not Kubernetes's.
FOREIGN = "monitoring.coreos.com/"


def render(chart, values, versions):
    report = helm_python.lint(chart, values, strict=True)
    result = {
        "lint": report["errors"]
        + [message for message in report["messages"] if message["severity"] != INFORMATION],
        "documents": [],
        "invalid": [],
        "error": None,
    }
    try:
        with helm_python.Chart.load(chart) as loaded:
            files = loaded.render(values, name="edge", namespace="net")
    except helm_python.HelmError as error:
        result["error"] = str(error)
        return result
    for name, text in sorted(files.items()):
        if not name.endswith(".yaml"):
            continue
        for document in yaml.safe_load_all(text):
            if document is None:
                continue
            result["documents"].append(document)
            if not document["apiVersion"].startswith(FOREIGN):
                result["invalid"] += validate(document, versions)
    return result


def validate(document, versions):
    for version in versions:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
            yield f"{document['kind']}, Kubernetes {version}: {error}"


def main():
    chart, *versions = sys.argv[1:]
    cases = json.load(sys.stdin)
    json.dump({case["name"]: render(chart, case["values"], versions) for case in cases}, sys.stdout)


main()
