"""Small real time series that come with the package."""

from pathlib import Path
from typing import Any, ClassVar

from typing_extensions import override

from datamodules.time_series import TimeSeriesDataModule

FOLDER = Path(__file__).with_name("bundled")


class BundledSeries(TimeSeriesDataModule):
    """A bundled CSV file of one series. A subclass names it.

    Args:
        context, horizon, season: See :class:`~datamodules.TimeSeriesDataModule`.
        **series: Its further arguments, but those of the file.
    """

    file: ClassVar[str]
    time: ClassVar[str]

    def __init__(self, context: int, horizon: int, season: int, **series: Any) -> None:
        path = str(FOLDER / self.file)
        super().__init__(path, self.time, context=context, horizon=horizon, season=season, fill="linear", **series)

    @property
    @override
    def input_file(self) -> None:
        return None


class CO2DataModule(BundledSeries):
    """526 monthly means of carbon dioxide in the air at Mauna Loa, March 1958 to December 2001, in ppm, 5 of them missing.

    Keeling and Whorf 2004, flask samples of the Scripps Institution of Oceanography, public domain: the weekly values that
    statsmodels bundles ("co2"), averaged by month.

    Args:
        context, horizon, season: See :class:`~datamodules.TimeSeriesDataModule`; two years, one year, twelve months.
        **series: Further arguments of :class:`~datamodules.TimeSeriesDataModule`, but those of the file.

    Example:
        >>> data = CO2DataModule()
        >>> data.input_shape, str(data.step), data.target_names
        ((24, 1), '1 month', ['co2'])
    """

    file, time = "co2.csv", "month"

    def __init__(self, context: int = 24, horizon: int = 12, season: int = 12, **series: Any) -> None:
        super().__init__(context=context, horizon=horizon, season=season, **series)


class SunspotsDataModule(BundledSeries):
    """309 yearly means of the number of sunspots, 1700 to 2008.

    National Geophysical Data Center, public domain; as statsmodels bundles them ("sunspots").

    Args:
        context, horizon, season: See :class:`~datamodules.TimeSeriesDataModule`; three cycles of the sun of 11 years, half a one.
        **series: Further arguments of :class:`~datamodules.TimeSeriesDataModule`, but those of the file.

    Example:
        >>> SunspotsDataModule().target_names
        ['sunspots']
    """

    file, time = "sunspots.csv", "year"

    def __init__(self, context: int = 33, horizon: int = 6, season: int = 11, **series: Any) -> None:
        super().__init__(context=context, horizon=horizon, season=season, **series)


class NileDataModule(BundledSeries):
    """100 yearly flows of the Nile at Aswan, 1871 to 1970, in 10^8 cubic meters, with a change near 1898.

    Cobb 1978, "The Problem of the Nile", Biometrika 65(2), public domain; as statsmodels bundles them ("nile").

    Args:
        context, horizon, season: See :class:`~datamodules.TimeSeriesDataModule`; ten years, five years, no season.
        **series: Further arguments of :class:`~datamodules.TimeSeriesDataModule`, but those of the file.

    Example:
        >>> NileDataModule().input_shape
        (10, 1)
    """

    file, time = "nile.csv", "year"

    def __init__(self, context: int = 10, horizon: int = 5, season: int = 1, **series: Any) -> None:
        super().__init__(context=context, horizon=horizon, season=season, **series)
