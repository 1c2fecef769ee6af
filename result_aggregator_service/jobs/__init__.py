"""Periodic work beside the consumer and the relay. Every replica runs it; the database lets one at a time through."""
