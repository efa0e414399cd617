"""What may become of programs, participants, rounds and pairs; no framework, no I/O."""
