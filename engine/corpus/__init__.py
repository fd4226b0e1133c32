"""Readers → tokenised windows → durable, replayable log."""
