"""The evaluate job: what a model, a run or a folder of masks is worth, as one folder of figures that can be cited."""

from microseg_ray.evaluation.job import Evaluation, evaluate
from microseg_ray.evaluation.sections import ShapeRule, class_named, class_sections, with_shape

__all__ = ["Evaluation", "ShapeRule", "class_named", "class_sections", "evaluate", "with_shape"]
