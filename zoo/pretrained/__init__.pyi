from .report import LoadReport as LoadReport
from .report import load_weights as load_weights
from .sources import list_weights as list_weights
