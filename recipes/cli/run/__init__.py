"""What one run is made of: options, building, session, folder, checkpoints, loggers, progress, summary."""
