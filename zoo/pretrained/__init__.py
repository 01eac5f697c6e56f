"""Reading and writing weights: files, folders, the Hugging Face hub, torchvision's weights, bundled ones.

``__init__.pyi`` lists the public names, which are imported on first use: what is bundled can be listed without importing torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
