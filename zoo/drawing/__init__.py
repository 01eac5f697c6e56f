"""Pictures: tensors in, uint8 images ``(3, H, W)`` out. They need no display; matplotlib is imported when one is drawn."""

from zoo.drawing.captions import captioned_images, word_maps
from zoo.drawing.colors import palette
from zoo.drawing.figures import decision_regions, fitted_curve, forecasts, heatmap, image_grid, predicted_against_true
from zoo.drawing.images import clouds, codes, image_rows, image_wall
from zoo.drawing.masks import mask_rows, overlay
from zoo.drawing.reliability import reliability_diagram

__all__ = [
    "captioned_images",
    "clouds",
    "codes",
    "decision_regions",
    "fitted_curve",
    "forecasts",
    "heatmap",
    "image_grid",
    "image_rows",
    "image_wall",
    "mask_rows",
    "overlay",
    "palette",
    "predicted_against_true",
    "reliability_diagram",
    "word_maps",
]
