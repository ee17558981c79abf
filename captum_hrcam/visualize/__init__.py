"""
The paper's figures: maps on images, layer by layer, the head's weights, box plots, ROC curves.

No pyplot state is used; each ``*_figure`` returns a Figure and its Axes. Figures fit a
journal's two columns (7.2 inches), with text of at least 7 points, in colours that the colour-blind
can tell apart.
"""

from captum_hrcam.visualize.boxes import boxes_figure
from captum_hrcam.visualize.case_browser import case_browser
from captum_hrcam.visualize.cases import Case, collect_cases
from captum_hrcam.visualize.comparison import comparison_figure
from captum_hrcam.visualize.curves import roc_figure
from captum_hrcam.visualize.layers import layers_figure
from captum_hrcam.visualize.slices import slices_figure
from captum_hrcam.visualize.weights import weights_figure

__all__ = [
    "Case",
    "boxes_figure",
    "case_browser",
    "collect_cases",
    "comparison_figure",
    "layers_figure",
    "roc_figure",
    "slices_figure",
    "weights_figure",
]
