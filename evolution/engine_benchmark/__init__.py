"""The command `populora bench-engine`: speed and memory beside peers. Nobody imports this room."""
