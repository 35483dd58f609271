"""The keys of KubeRay's RayCluster and RayJob that manifests may use, as JSON schemas, and nothing beside them.

Written after the API types of KubeRay 1.4 (`ray-operator/apis/ray/v1/raycluster_types.go` and `rayjob_types.go`) and the guide to
token authentication (docs.ray.io, `authOptions`, KubeRay 1.5.1). What a pod may have is checked by
the schemas of Kubernetes itself.
"""

from __future__ import annotations

from typing import Any

__all__ = ["RAY_CLUSTER", "RAY_JOB"]

_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_COUNT = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
_TEMPLATE = {"type": "object", "required": ["spec"]}


def _closed(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


_HEAD = _closed(
    {
        "serviceType": {"enum": ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]},
        "headService": {"type": "object"},
        "enableIngress": {"type": "boolean"},
        "rayStartParams": _TEXTS,
        "template": _TEMPLATE,
    },
    "rayStartParams",
    "template",
)
_WORKERS = _closed(
    {
        "groupName": {"type": "string", "minLength": 1},
        "replicas": _COUNT,
        "minReplicas": _COUNT,
        "maxReplicas": _COUNT,
        "numOfHosts": {**_COUNT, "minimum": 1},
        "rayStartParams": _TEXTS,
        "template": _TEMPLATE,
        "scaleStrategy": {"type": "object"},
    },
    "groupName",
    "minReplicas",
    "maxReplicas",
    "rayStartParams",
    "template",
)
_AUTOSCALER = _closed(
    {
        "resources": {"type": "object"},
        "image": {"type": "string"},
        "imagePullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
        "env": {"type": "array"},
        "envFrom": {"type": "array"},
        "volumeMounts": {"type": "array"},
        "securityContext": {"type": "object"},
        "idleTimeoutSeconds": _COUNT,
        "upscalingMode": {"enum": ["Default", "Aggressive", "Conservative"]},
    }
)
_CLUSTER_SPEC = _closed(
    {
        "authOptions": _closed({"mode": {"enum": ["disabled", "token"]}}, "mode"),
        "headGroupSpec": _HEAD,
        "workerGroupSpecs": {"type": "array", "items": _WORKERS},
        "rayVersion": {"type": "string"},
        "enableInTreeAutoscaling": {"type": "boolean"},
        "autoscalerOptions": _AUTOSCALER,
        "headServiceAnnotations": _TEXTS,
        "suspend": {"type": "boolean"},
    },
    "headGroupSpec",
)
_JOB_SPEC = _closed(
    {
        "activeDeadlineSeconds": {**_COUNT, "minimum": 1},
        "backoffLimit": _COUNT,
        "rayClusterSpec": _CLUSTER_SPEC,
        "submitterPodTemplate": _TEMPLATE,
        "metadata": _TEXTS,
        "clusterSelector": _TEXTS,
        "submitterConfig": _closed({"backoffLimit": _COUNT}),
        "managedBy": {"enum": ["ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"]},
        "entrypoint": {"type": "string", "minLength": 1},
        "runtimeEnvYAML": {"type": "string"},
        "jobId": {"type": "string"},
        "submissionMode": {"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
        "entrypointResources": {"type": "string"},
        "entrypointNumCpus": {"type": "number", "minimum": 0},
        "entrypointNumGpus": {"type": "number", "minimum": 0},
        "ttlSecondsAfterFinished": _COUNT,
        "shutdownAfterJobFinishes": {"type": "boolean"},
        "suspend": {"type": "boolean"},
    }
)


def _resource(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}},
    }
    return _closed(
        {"apiVersion": {"const": "ray.io/v1"}, "kind": {"const": kind}, "metadata": metadata, "spec": spec},
        "apiVersion",
        "kind",
        "metadata",
        "spec",
    )


RAY_CLUSTER = _resource("RayCluster", _CLUSTER_SPEC)
RAY_JOB = _resource("RayJob", _JOB_SPEC)
