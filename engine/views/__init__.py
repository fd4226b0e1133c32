"""The records that a snapshot is made of; publishing them to Redis and reading them back."""
