"""What `deploy/` has for clusters is valid, and agrees with the package: manifests, the SLURM script, the container file."""

from __future__ import annotations

import copy
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from microseg_ray.settings import JOBS, load_settings
from tests.deploy.kuberay import RAY_CLUSTER, RAY_JOB

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parents[2]
DEPLOY = REPOSITORY / "deploy"
SCRIPT = DEPLOY / "slurm" / "microseg.sbatch"
SCHEMAS = {"raycluster.yaml": RAY_CLUSTER, "rayjob.yaml": RAY_JOB}
# A version that the package of schemas has; nothing newer than 2024 is used.
KUBERNETES = "1.30"


def _manifest(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DEPLOY / "kuberay" / name).read_text("utf-8"))
    return document


def _cluster(document: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = document["spec"]
    return spec["rayClusterSpec"] if document["kind"] == "RayJob" else spec


def _templates(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    cluster = _cluster(document)
    yield cluster["headGroupSpec"]["template"]
    for group in cluster["workerGroupSpecs"]:
        yield group["template"]


def _errors(document: dict[str, Any], schema: dict[str, Any]) -> list[str]:
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(document)]


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_a_manifest_has_the_keys_of_kuberay(name: str) -> None:
    assert {path.name for path in (DEPLOY / "kuberay").iterdir()} == set(SCHEMAS)
    document = _manifest(name)
    assert _errors(document, SCHEMAS[name]) == []
    wrong = copy.deepcopy(document)
    _cluster(wrong)["workerGroupSpecs"][0]["maxReplica"] = 4
    assert "maxReplica" in str(_errors(wrong, SCHEMAS[name]))


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_the_pods_of_a_manifest_are_pods(name: str) -> None:
    found = list(_templates(_manifest(name)))
    assert len(found) == 3
    for template in found:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": template["spec"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
        mounted = {mount["name"] for box in template["spec"]["containers"] for mount in box["volumeMounts"]}
        assert mounted == {volume["name"] for volume in template["spec"]["volumes"]}
    found[0]["spec"]["containers"][0]["imag"] = "a"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**pod, "spec": found[0]["spec"]}, KUBERNETES, strict=True)


def test_both_manifests_describe_the_same_cluster_behind_a_token() -> None:
    cluster, job = (_cluster(_manifest(name)) for name in sorted(SCHEMAS))
    assert cluster == job
    assert cluster["authOptions"] == {"mode": "token"}
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    limits = {name: group["template"]["spec"]["containers"][0]["resources"]["limits"] for name, group in groups.items()}
    assert "nvidia.com/gpu" not in limits["cpu"]
    assert limits["gpu"]["nvidia.com/gpu"] == groups["gpu"]["rayStartParams"]["num-gpus"]


def test_versions_agree_with_the_package() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (REPOSITORY / "constraints.txt").read_text("utf-8"), re.MULTILINE))
    for name in SCHEMAS:
        assert _cluster(_manifest(name))["rayVersion"] == pinned["ray"]
        images = {box["image"] for template in _templates(_manifest(name)) for box in template["spec"]["containers"]}
        assert images == {f"REGISTRY/microseg_ray:{project['version']}"}
    container = (DEPLOY / "Containerfile").read_text("utf-8")
    for name in re.findall(r"^COPY ([^\n]+) \S+$", container, re.MULTILINE):
        assert [part for part in name.split() if not (REPOSITORY / part).exists()] == []
    extras = re.search(r'"\.\[([\w,]+)\]"', container)
    assert extras is not None
    assert set(extras[1].split(",")) <= set(project["optional-dependencies"])


def test_the_job_of_the_manifest_is_a_command_that_is_accepted() -> None:
    python, script, *arguments = shlex.split(_manifest("rayjob.yaml")["spec"]["entrypoint"])
    assert python == "python"
    inside = Path(script).relative_to("/opt/microseg_ray")
    assert (REPOSITORY / inside).is_file()
    settings = load_settings(JOBS[inside.stem], arguments)
    assert settings.model_dump()["output"] == "/shared/run"


def test_the_slurm_script_is_clean() -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([shellcheck, SCRIPT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert os.access(SCRIPT, os.X_OK)
    options = re.findall(r"^#SBATCH --([\w-]+)=", SCRIPT.read_text("utf-8"), re.MULTILINE)
    assert {"nodes", "ntasks-per-node", "cpus-per-task", "mem", "time", "signal"} <= set(options)


def test_the_slurm_script_says_how_it_is_called(tmp_path: Path) -> None:
    bare = {"PATH": os.environ["PATH"], "SLURM_SUBMIT_DIR": str(tmp_path)}
    done = subprocess.run(["bash", SCRIPT], env=bare, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "usage: sbatch" in done.stderr
    done = subprocess.run(["bash", SCRIPT, "segment"], env=bare, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "set MICROSEG_VENV" in done.stderr


def test_the_token_of_a_slurm_job_is_for_its_user_alone(tmp_path: Path) -> None:
    lines = SCRIPT.read_text("utf-8").splitlines()
    chosen = [line for line in lines if line.startswith(("state=", "(umask 077"))]
    assert len(chosen) == 3
    environment = {**os.environ, "MICROSEG_STATE": str(tmp_path), "SLURM_JOB_ID": "7"}
    subprocess.run(["bash", "-euc", "\n".join(["umask 000", *chosen])], check=True, env=environment)
    token = tmp_path / ".microseg-ray-7" / "token"
    assert (token.stat().st_mode & 0o777, token.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert re.fullmatch("[0-9a-f]{64}", token.read_text("ascii"))
