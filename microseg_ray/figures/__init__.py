"""Images and plots from numbers and pixels. No module here imports a model, a run or a job."""

from microseg_ray.figures.overlays import tinted
from microseg_ray.figures.panels import Pane, compose_panel, error_colors
from microseg_ray.figures.pictures import scale_bar_um, thumbnail
from microseg_ray.figures.plots import plot_confusion, plot_training

__all__ = [
    "Pane",
    "compose_panel",
    "error_colors",
    "plot_confusion",
    "plot_training",
    "scale_bar_um",
    "thumbnail",
    "tinted",
]
