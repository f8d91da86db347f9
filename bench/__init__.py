"""What is claimed about speed, as programs that measure it."""
