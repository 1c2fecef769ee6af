"""The pure middle: what messages say, what follows from it, what is to be announced. No clock, no server, no I/O."""
