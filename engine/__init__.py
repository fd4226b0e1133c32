"""saestream's engine: text in, views out; see `engine.loop` for the order of the stages."""
