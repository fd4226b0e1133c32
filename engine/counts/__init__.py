"""The state: marginals, pair tables, ledger; and its checkpoints."""
