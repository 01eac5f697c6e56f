"""The parts of one run: options, building, session, folder, checkpoints, loggers, progress, summary."""
