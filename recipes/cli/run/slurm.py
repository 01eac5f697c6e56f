"""Jobs of SLURM's: put back into the queue when their time is up, and continued where they were. Imports no torch."""

import os
import subprocess
from pathlib import Path

from recipes.cli.run.folder import CONFIG, resumable, runs_in, version
from recipes.cli.run.record import read_record


def requeue() -> str:
    """Put this job back into the queue.

    Returns:
        What was done, or why it was not; an empty text outside a job.
    """
    if not (job := _name_of_job()):
        return ""
    try:
        done = subprocess.run(
            ["scontrol", "requeue", job], capture_output=True, text=True, errors="replace", timeout=60, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"the job {job} is not requeued: {error}"
    if done.returncode:
        return f"the job {job} is not requeued: scontrol says {(done.stderr or done.stdout).strip() or done.returncode}"
    return f"the job {job} is back in the queue; it goes on where it was"


def requeued_run(root: Path, recipe: str) -> Path | None:
    """Return the run of a recipe that this job has begun before it was requeued; None if there is none with a checkpoint."""
    runs = [path for path in (root / recipe).glob("version_*") if (path / CONFIG).is_file() and resumable(path)]
    return max((path for path in runs if _of_requeued_job(path)), key=version, default=None)


def requeued_group(root: Path, recipe: str, kind: str) -> Path | None:
    """Return the group of runs, "seeds" or "folds", that this job has begun before it was requeued; None if there is none."""
    groups = [path for path in (root / recipe).glob(f"{kind}_*") if any(map(_of_requeued_job, runs_in(path)))]
    return max(groups, key=lambda path: version(path, kind), default=None)


def _of_requeued_job(run: Path) -> bool:
    job = os.environ.get("SLURM_JOB_ID", "")
    if not job or os.environ.get("SLURM_RESTART_COUNT", "0") in ("", "0"):
        return False
    record = read_record(run)
    return record is not None and record.slurm_job == job


def _name_of_job() -> str:
    """Return how ``scontrol`` names this job: one of an array by the array's number and its own place."""
    array, place = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{place}" if array and place else os.environ.get("SLURM_JOB_ID", "")
