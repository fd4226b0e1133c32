"""A process beside the engine that reads whole snapshots and answers what needs all features at once. No torch in it."""
