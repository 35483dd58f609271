"""The postprocess job: a run's masks without specks and holes, or with smoother borders, as a run of their own.

Two operations, in this order, both out of core and equal to what they give on the whole mask in memory:

* `remove_small` gives each connected part of one class that is smaller than its class's limit to the class around it;
* `majority_filter` gives each pixel the most frequent class of the square around it.

dask cuts a mask into shards with halos (`map_overlap`, dask-image); which scheduler runs the tasks, threads or Ray, does
not show in the bytes. The parent run is only read: its counts stay those of its masks.
"""

from microseg_ray.postprocessing.derive import Postprocessed, Scheduler, postprocess
from microseg_ray.postprocessing.operations import Steps, majority_filter, remove_small

__all__ = ["Postprocessed", "Scheduler", "Steps", "majority_filter", "postprocess", "remove_small"]
