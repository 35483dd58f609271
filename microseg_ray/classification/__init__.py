"""Classes of whole micrographs: a folder per class in, a checkpoint out, and an archive's classes from it. No Ray.

A classifier sees a micrograph of any size as one or more views of one size (`views`), and its class probabilities are
the mean over them. Copies and mirrors of one micrograph are one group, and no split ever crosses a group (`labelled`).
"""

from __future__ import annotations

from microseg_ray.classification.classifier import Classifier, load_classifier
from microseg_ray.classification.classify import Classified, classify
from microseg_ray.classification.fit import FittedClassifier, fit_classifier
from microseg_ray.classification.judging import Verdict, judged
from microseg_ray.classification.labelled import Labelled, LabelledRow, find_labelled
from microseg_ray.classification.rule import GradientRule, fit_rule
from microseg_ray.classification.views import Views, read_views

__all__ = [
    "Classified",
    "Classifier",
    "FittedClassifier",
    "GradientRule",
    "Labelled",
    "LabelledRow",
    "Verdict",
    "Views",
    "classify",
    "find_labelled",
    "fit_classifier",
    "fit_rule",
    "judged",
    "load_classifier",
    "read_views",
]
