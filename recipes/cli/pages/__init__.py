"""Pages of runs: ``report.html`` of a run folder, and what ``zoo web`` shows. Imports no torch."""
