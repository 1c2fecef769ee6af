"""The unit of work: what a poll says goes into the read model in one transaction, with all that follows from it."""
